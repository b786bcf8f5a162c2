# `make repro` and `make test` need Python, git and make, and nothing else installed.
# Another Python: make PYTHON=python3.12 repro

PYTHON ?= python3
STAMP := .venv/.installed
# DVC runs the stages as `python -m vla`: that must be the environment's python.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-slow lint ui clean

help:
	@echo "make repro   run the pipeline and show what it made"
	@echo "make test    run the tests; make test-slow runs the end-to-end ones, which take longer"
	@echo "make lint    check style and types"
	@echo "make ui      open MLflow and Prefect in a browser"
	@echo "make clean   remove training states and temporary files that nothing uses"
	@echo "make setup   install the locked dependencies into .venv (the others do it when needed)"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "$(PYTHON): expected Python 3.11, 3.12 or 3.13, found $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON): expected the modules venv and ensurepip, which some systems pack apart."; \
	  echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@git rev-parse --git-dir >/dev/null 2>&1 || { \
	  echo "$(CURDIR): expected a git repository, which DVC needs, found none (a downloaded archive has none)."; \
	  echo "Clone the project, or run: git init && git add -A && git commit -m 'Import'"; exit 1; }
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --upgrade pip
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: $(STAMP)
	@reports=$$(mktemp -d) && trap 'rm -rf "$$reports"' EXIT && export VLA_STAGE_REPORTS="$$reports" && \
	dvc repro && echo && python -m vla summary

test: $(STAMP)
	OMP_NUM_THREADS=1 python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 python -m pytest -m slow

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy

ui: $(STAMP)
	@export DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false; \
	export PREFECT_SERVER_ANALYTICS_ENABLED=false; mkdir -p .vla; \
	mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db" > .vla/mlflow.log 2>&1 & mlflow=$$!; \
	prefect server start --host 127.0.0.1 --port 4200 > .vla/prefect.log 2>&1 & prefect=$$!; \
	trap 'trap - INT TERM EXIT; kill $$mlflow $$prefect 2>/dev/null; wait; exit 0' INT TERM EXIT; \
	echo "MLflow   http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"; \
	echo "Prefect  http://127.0.0.1:4200"; \
	echo "They answer after some seconds. Ctrl-C stops both."; \
	while kill -0 $$mlflow 2>/dev/null && kill -0 $$prefect 2>/dev/null; do sleep 1; done; \
	echo "One of them has ended; .vla/mlflow.log and .vla/prefect.log say why."

clean: $(STAMP)
	@python -m vla clean
