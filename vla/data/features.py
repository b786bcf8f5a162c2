"""`data/features`: the outputs of a policy's frozen part for every step, or the marker that there are none."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from vla import artifacts
from vla.errors import DataError

FILE_NAME = "meta.json"


@dataclass(frozen=True, slots=True)
class FeatureMarker:
    """The file `meta.json`: whether features are cached, and if not, why."""

    enabled: bool
    reason: str

    @classmethod
    def read(cls, features: Path) -> Self:
        path = features / FILE_NAME
        values = artifacts.read_json(path, made_by="dvc repro cache_features")
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(
                f"{path}: expected a feature marker, {error}. Run 'dvc repro -f -s cache_features'."
            ) from None

    def write(self, features: Path) -> None:
        """Replace the folder `features` by one with this marker alone."""
        with artifacts.new_directory(features) as partial:
            artifacts.write_json(partial / FILE_NAME, asdict(self))
