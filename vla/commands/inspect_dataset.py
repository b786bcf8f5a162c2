"""`vla inspect dataset PATH`: what a dataset consists of, and the parameters to use it.

PATH is a folder of recordings in any supported format, which needs no parameters, or what the download stage left.
Only metadata are read; whether files are there is seen from the listings of their folders.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from vla import registry
from vla.config import Config
from vla.data.fetch import stat_files
from vla.data.manifest import FILE_NAME, Manifest
from vla.data.sources import DataConfig, open_dataset
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import Annotates, Dataset, NamesTasks
from vla.lerobot import fault_of
from vla.terms import DatasetSchema

WIDTH = 100
"""Characters of a line, beside its name."""
UNKNOWN_RATE = "the format does not record the rate"
TEXTS = 6
"""Instructions that are shown."""
ANNOTATED = 200
"""Annotated episodes, evenly spread, whose annotations are read."""
TOKENS = 8
"""`transforms.max_tokens` of the params.yaml that the project comes with, and what it is raised by."""
SIMULATED = ("sawyer", ("move_x", "move_y", "move_z", "close_gripper"))
"""Robot and actions of `vla.sim.world`, which loads the simulator."""
Facts = list[tuple[str, str]]


class Settings(Config):
    """The section that says which columns of a dataset are what."""

    data: DataConfig


def run(dataset: Path) -> str:
    """Name and value, line by line; of recordings also the sections of `params.yaml` to begin with."""
    if not dataset.is_dir():
        raise DataError(f"{dataset}: expected a dataset folder, found none. Correct the path.")
    if (dataset / FILE_NAME).is_file():
        return _lines(_downloaded(dataset))
    return _recorded(dataset)


def _downloaded(path: Path) -> Facts:
    """What the download stage left, as the parameters say that it is to be read."""
    manifest = Manifest.read(path)
    opened = open_dataset(Settings.load().data, path)
    left_out = [
        f"{source.name}: {count} {why}" for source in opened.sources for why, count in source.selected.left_out.items()
    ]
    sources = [f"{source.name} ({len(source.selected.table):,} episodes)" for source in opened.sources]
    size = sum(entry.size for entry in manifest.files)
    return [
        ("digest", manifest.digest),
        ("from", ", ".join(f"{name} {value}" for name, value in manifest.source.items() if value is not None)),
        ("format", f"{manifest.format}, {len(manifest.files):,} files, {in_units(size)}"),
        ("datasets", ", ".join(sources)),
        *_contents(opened.schema, opened.episodes(), rate_is_known=True),
        ("left out", _short(left_out) or "nothing"),
    ]


def _recorded(path: Path) -> str:
    """Recordings, and how to use them."""
    name = _recognise(path)
    module = registry.find("formats", name)
    columns, folder = module.suggest_columns(path), Folder(path)
    dataset: Dataset = module.open_dataset(folder, columns, name=path.resolve().name)
    names = folder.names()
    size = sum(status.st_size for status in stat_files(path, names).values())
    incomplete, missing = _missing(dataset, frozenset(names))
    rows = [
        ("format", f"{name}, {len(names):,} files, {in_units(size)}"),
        *_contents(dataset.schema, dataset.episodes(), rate_is_known=columns.fps is None),
        *_task_names(dataset),
        *_annotations(dataset),
        ("missing", f"{len(missing):,} files of {incomplete:,} episodes: {_short(missing)}" if missing else "nothing"),
    ]
    data = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).lstrip(".") or "recordings",
        "format": name,
        "columns": {key: value for key, value in columns.plain().items() if value},
        **({"select": {"present": True}} if missing else {}),
    }
    download = {"source": "local", "local": {"path": str(path.resolve())}}
    sections = {"data": data, "download": download, **_elsewhere(dataset)}
    snippet = yaml.safe_dump(sections, sort_keys=False, default_flow_style=None, width=WIDTH)
    hint = "" if columns.fps is None else ", and with the right fps"
    return f"{_lines(rows)}\n\nin params.yaml, to begin with{hint}:\n\n{snippet.rstrip()}"


def _elsewhere(dataset: Dataset) -> dict[str, Any]:
    """Keys of other sections that the project's own values do not fit."""
    keys: dict[str, Any] = {}
    if (dataset.schema.robot, tuple(dataset.schema.action_names)) != SIMULATED:
        keys["rollout"] = {"environment": "none", "tasks": []}
    texts = set(dataset.episodes()["instruction"].to_pylist())
    longest = max((count_tokens(text or "") for text in texts), default=0)
    if longest > TOKENS:
        keys["transforms"] = {"max_tokens": -(-longest // TOKENS) * TOKENS}
    return keys


def count_tokens(instruction: str) -> int:
    """Words and runs of punctuation, as `vla.tokenization.Tokenize` splits a text, without loading PyTorch."""
    return len(re.findall(r"\w+|[^\w\s]+", unicodedata.normalize("NFKC", instruction).lower()))


def _contents(schema: DatasetSchema, episodes: pa.Table, *, rate_is_known: bool) -> Facts:
    """Episodes, what they show and what is done in them."""
    lengths_E = episodes["length"].to_numpy()
    steps = int(lengths_E.sum())
    sizes = [(view, size, "") for view, size in schema.views.items()]
    sizes += [(view, size, " (depth)") for view, size in schema.depth.items()]
    counts = Counter(episodes["instruction"].to_pylist()).most_common()
    texts = [f"{text or '(none)'} ({count})" for text, count in counts[:TEXTS]]
    more = ["..."] if len(counts) > TEXTS else []
    spread = f"{lengths_E.min()} to {lengths_E.max()} each, half of them up to {np.median(lengths_E):g}"
    hours = f", {steps / schema.fps / 3600:.2f} hours" if rate_is_known else ""
    return [
        ("episodes", f"{len(lengths_E):,} with {steps:,} steps{hours}"),
        ("steps", f"{spread}; {f'{schema.fps:g} per second' if rate_is_known else UNKNOWN_RATE}"),
        ("robot", schema.robot),
        ("views", _short(f"{view}{kind} at {size[0]} x {size[1]}" for view, size, kind in sizes) or "none"),
        ("state", f"{schema.state_dim}: {_short(schema.state_names)}"),
        ("actions", f"{schema.action_dim}: {_short(schema.action_names)}"),
        ("instructions", f"{len(counts)}: {texts[0]}"),
        *(("", text) for text in [*texts[1:], *more]),
    ]


def _task_names(dataset: Dataset) -> Facts:
    """What `data.select.tasks` may name."""
    names = Counter(dataset.task_names().values()) if isinstance(dataset, NamesTasks) else Counter()
    return [("tasks", f"{len(names)}: {_short(sorted(names))}")] if names else []


def _annotations(dataset: Dataset) -> Facts:
    """How many episodes are annotated and with which skills, the most frequent first."""
    if not isinstance(dataset, Annotates):
        return []
    annotated = dataset.annotated()
    share = annotated[:: -(-len(annotated) // ANNOTATED) or 1]
    counts = Counter(item.text for number in share for item in dataset.annotations(number)).most_common()
    skills = _short(f"{text} ({count})" for text, count in counts)
    part = f", {len(share)} of them read" if len(share) < len(annotated) else ""
    return [
        ("annotations", f"{len(annotated):,} of {len(dataset.episodes()):,} episodes{part}"),
        *([("skills", skills)] if skills else []),
    ]


def _missing(dataset: Dataset, names: frozenset[str]) -> tuple[int, list[str]]:
    """How many episodes lack files, and which files these are."""
    missing: dict[str, None] = {}
    incomplete = 0
    for episode_id in dataset.episodes()["episode_id"].to_pylist():
        absent = [file.as_posix() for file in dataset.episode_files(episode_id) if file.as_posix() not in names]
        incomplete += bool(absent)
        missing.update(dict.fromkeys(absent))
    return incomplete, list(missing)


def _recognise(path: Path) -> str:
    """The format of a folder; raises DataError with what the formats are, and with folders below it that are of one."""
    formats = {name: registry.find("formats", name) for name in registry.names("formats")}

    def matching(folder: Path) -> list[str]:
        return [name for name, module in formats.items() if module.recognises(folder)]

    if found := matching(path):
        return found[0]
    below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and matching(folder)]
    hint = f" Did you mean {' or '.join(map(str, below[:3]))}?" if below else ""
    known = "\n".join(f"  {name:<16}{_first_line(module.__doc__)}" for name, module in formats.items())
    inside = _short(sorted(item.name for item in path.iterdir())) or "nothing"
    fault = fault_of(path) or f"{path}: expected a dataset of a supported format, found {inside}.{hint}"
    raise DataError(f"{fault} Supported are:\n{known}")


def _first_line(text: Any) -> str:
    return str(text).strip().partition("\n")[0]


def _short(parts: Iterable[str]) -> str:
    """As many of the parts as fit into a line, and how many there are."""
    items: Sequence[str] = list(parts)
    shown = 0
    while shown < len(items) and len(", ".join(items[: shown + 1])) <= WIDTH:
        shown += 1
    if shown == len(items):
        return ", ".join(items)
    return ", ".join([*items[: max(shown, 1)], f"... ({len(items)} in all)"])


def in_units(count: float) -> str:
    """In units of which there are less than a thousand."""
    units = iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while count >= 1000 and unit != "TB":
        count, unit = count / 1000, next(units)
    return f"{count:.3g} {unit}"


def _lines(facts: Facts) -> str:
    return "\n".join(f"{name:<16}{value}" for name, value in facts)
