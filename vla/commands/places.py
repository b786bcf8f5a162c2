"""Where commands write."""

from pathlib import Path

from vla.errors import ConfigError


def require_new(out: Path) -> None:
    """Raise ConfigError where something is at `out` already: what is written replaces all of it."""
    if out.exists():
        raise ConfigError(f"--out: expected a folder that is not there yet, found {out}. Remove it, or name another.")
