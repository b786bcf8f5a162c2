"""Paths and names that come out of files: they name something below a folder, or they are refused."""

from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from vla.errors import DataError

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
"""A setting that becomes the name of a file or folder: it leads nowhere else and hides nothing."""


def below(root: Path, text: str, *, where: str) -> Path:
    """`root / text`, where `text` comes from the file `where`; raises DataError when it could leave `root`.

    The check is on the text: links inside the folder are followed on purpose, as download caches consist of links.
    """
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or not path.parts:
        raise DataError(
            f"{where}: expected a path below {root}, found {text!r}. Do not use data that names such paths."
        )
    return root / path
