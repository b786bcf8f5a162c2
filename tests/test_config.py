"""Settings: wrong keys are named by their dotted path with the nearest right one; good ones survive a round trip."""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from vla import config
from vla.errors import ConfigError
from vla.stages import STAGES

PARAMS = Path(__file__).parents[1] / "params.yaml"


class Camera(config.Config):
    """One nested section."""

    height: int
    width: int


class Sgd(config.Config):
    """One member of a union."""

    kind: Literal["sgd"]
    momentum: float


class Adam(config.Config):
    """The other member."""

    kind: Literal["adam"]
    betas: tuple[float, float]


class Section(config.Config):
    """A section with everything that nests."""

    camera: Camera
    spare: Camera | None
    cameras: tuple[Camera, ...]
    named: Mapping[str, Camera]
    tagged: Annotated[Sgd | Adam, Field(discriminator="kind")]
    either: Sgd | Adam


class Stage(config.Config):
    """What a stage reads: two sections, one of them untracked."""

    train: Section
    execution: Camera


CAMERA = {"height": 4, "width": 6}
SECTION = {
    "camera": CAMERA,
    "spare": None,
    "cameras": [CAMERA],
    "named": {"front": CAMERA},
    "tagged": {"kind": "adam", "betas": [0.9, 0.95]},
    "either": {"kind": "sgd", "momentum": 0.9},
}
STAGE = {"train": SECTION, "execution": CAMERA}


def message(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Stage.parse({**STAGE, "train": {**SECTION, **changes}}, where="params.yaml")
    return str(caught.value)


def test_a_right_section_parses():
    assert Stage.parse(STAGE, where="params.yaml").train.camera.width == 6


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"camera": {**CAMERA, "widht": 6}}, "train.camera.widht"),
        ({"spare": {**CAMERA, "widht": 6}}, "train.spare.widht"),
        ({"cameras": [CAMERA, {**CAMERA, "widht": 6}]}, "train.cameras.1.widht"),
        ({"named": {"front": {**CAMERA, "widht": 6}}}, "train.named.front.widht"),
    ],
)
def test_a_misspelt_key_gets_its_dotted_path_and_the_nearest_right_one(changes, path):
    assert message(**changes) == (
        f"params.yaml: {path}: expected one of height, width, found 'widht'. Did you mean 'width'?"
    )


def test_a_misspelt_key_of_a_chosen_member_of_a_union_is_told_that_members_keys():
    lines = message(tagged={"kind": "sgd", "momentun": 0.9}).splitlines()
    where = "params.yaml: train.tagged"
    assert lines == [
        f"{where}.momentum: expected a value, found none. Add it.",
        f"{where}.momentun: expected one of kind, momentum, found 'momentun'. Did you mean 'momentum'?",
    ]


def test_a_misspelt_key_of_any_member_of_a_union_is_told_each_members_keys():
    text = message(either={"kind": "sgd", "momentun": 0.9})
    assert "train.either.momentun: expected one of kind, momentum, found 'momentun'. Did you mean 'momentum'?" in text
    assert "train.either.momentun: expected one of betas, kind, found 'momentun'." in text


def test_a_key_unlike_all_others_gets_no_suggestion():
    assert message(camera={**CAMERA, "zoom": 2}).endswith("expected one of height, width, found 'zoom'.")


def test_a_value_of_the_wrong_type_is_shown():
    assert message(camera={"height": "tall", "width": 6}) == (
        "params.yaml: train.camera.height: input should be a valid integer, unable to parse string as an integer, "
        "found 'tall'. Correct the value."
    )


def test_a_missing_key_is_named():
    assert message(camera={"height": 4}) == ("params.yaml: train.camera.width: expected a value, found none. Add it.")


def test_every_wrong_value_gets_a_line():
    assert len(message(camera={"height": "tall", "widht": 6}).splitlines()) == 3


def test_a_missing_section_is_named_with_what_the_file_has(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 0\nexecution: {height: 1, width: 2}\n")
    with pytest.raises(ConfigError, match=r"expected a section 'train', found seed, execution\. Add the section"):
        Stage.load(path)


def test_a_misspelt_section_is_found_even_when_the_stage_does_not_read_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train: {}\nexecutoin: {height: 1, width: 2}\n")
    with pytest.raises(ConfigError, match=r"found 'executoin'\. Did you mean 'execution'\?"):
        Stage.load(path)


def test_sections_that_a_stage_does_not_read_are_left_alone(tmp_path):
    class Seed(config.Config):
        seed: int

    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nregister: [anything]\n")
    assert Seed.load(path) == Seed(seed=1)


def test_a_missing_parameter_file_is_explained(tmp_path):
    with pytest.raises(
        ConfigError, match=r"params\.yaml: expected a parameter file, found none\. Run from the project"
    ):
        Camera.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "found"), [("a: [1", "expected YAML"), ("- 1\n", "found list"), ("", "found NoneType")]
)
def test_a_parameter_file_that_is_no_mapping_is_explained(tmp_path, text, found):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        Camera.load(path)


def test_settings_cannot_be_changed_after_parsing():
    camera = Camera(height=1, width=2)
    with pytest.raises(ValidationError, match="frozen"):
        camera.height = 2


def test_what_decides_the_numbers_leaves_out_where_they_are_computed():
    stage = Stage.parse(STAGE, where="params.yaml")
    assert set(stage.tracked()) == {"train"}
    assert set(stage.plain()) == {"train", "execution"}


def test_plain_values_parse_to_an_equal_config():
    stage = Stage.parse(STAGE, where="params.yaml")
    assert Stage.parse(stage.plain(), where="plain") == stage


@pytest.mark.parametrize("stage", [name for name, (module, _) in STAGES.items() if importlib.util.find_spec(module)])
def test_the_repositorys_parameters_fit_every_stage_and_survive_a_round_trip(stage):
    kind = importlib.import_module(STAGES[stage][0]).Config
    cfg = kind.load(PARAMS)
    assert kind.parse(cfg.plain(), where="plain") == cfg


@pytest.mark.parametrize("stage", [name for name, (module, _) in STAGES.items() if importlib.util.find_spec(module)])
def test_a_stage_refuses_an_unknown_key_of_its_own_section(stage):
    kind = importlib.import_module(STAGES[stage][0]).Config
    values = {name: value for name, value in config.read_params(PARAMS).items() if name in kind.model_fields}
    with pytest.raises(ConfigError, match=rf"params\.yaml: {stage}\.zzz: expected one of"):
        kind.parse({**values, stage: {**values[stage], "zzz": 1}}, where="params.yaml")
