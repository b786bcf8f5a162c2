import re

import pytest
from projects import params, write_params

from vla import cli
from vla.planning.gpus import GPUS, find


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_params(tmp_path, {"train.precision": "bfloat16", "data.columns.state": "state[0:5]"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys, *words):
    assert cli.main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_a_plan_says_what_fits_and_how_long_it_takes(folder, capsys):
    shown = planned(capsys, "--gpu", "l40s", "--action-dim", "4", "--workers", "2", "--micro-batch", "4")
    assert "state 5, actions 4" in shown
    assert "2 x L40S, micro-batch 4, batch" in shown
    assert "fits; the largest micro-batch that fits: " in shown
    flops, speed = (float(number) for number in re.findall(r"([0-9.e+-]+) (?:TFLOP  a|samples/s)", shown))
    assert speed == pytest.approx(2 * 362 * 0.4 / flops, rel=0.01)
    assert "expected at 40% of 362 TFLOP/s a GPU" in shown
    assert f"hours  for {params({})['train']['steps']:,} steps" in shown


def test_float32_is_planned_without_a_speed(folder, capsys):
    write_params(folder, {"train.precision": "float32", "data.columns.state": "state[0:5]"})
    assert "speed                   not known for float32" in planned(capsys, "--action-dim", "4")


def test_a_whole_column_without_dataset_has_no_size(folder, capsys):
    assert cli.main(["plan"]) == 2
    assert "expected the size of 'action', found no dataset that says it. Give it as --action-dim" in (
        capsys.readouterr().err
    )


def test_unknown_gpus_and_presets_are_refused_with_the_nearest_name(folder, capsys):
    assert cli.main(["plan", "--gpu", "h10", "--action-dim", "4"]) == 2
    assert "Did you mean 'h100'?" in capsys.readouterr().err
    assert cli.main(["plan", "--preset", "pi05-liber"]) == 2
    assert "Did you mean 'pi05-libero'?" in capsys.readouterr().err


def test_a_micro_batch_is_at_most_a_workers_share_of_the_batch(folder, capsys):
    batch = params({})["train"]["batch_size"]
    shown = planned(capsys, "--action-dim", "4", "--workers", "2", "--micro-batch", "1000")
    assert f"2 x H100, micro-batch {batch // 2}, batch {batch}" in shown
    assert cli.main(["plan", "--action-dim", "4", "--workers", str(batch + 1)]) == 2
    assert "train.batch_size: expected a multiple of the number of workers" in capsys.readouterr().err


def test_a_share_of_the_peak_is_above_0_and_at_most_1(folder, capsys):
    for word in ("0", "40", "nan"):
        with pytest.raises(SystemExit):
            cli.main(["plan", "--utilisation", word])
    assert "expected a share above 0 and up to 1, found 40" in capsys.readouterr().err


def test_every_gpu_has_a_peak_and_less_room_than_memory():
    for word in GPUS:
        gpu = find(word)
        assert gpu.tflops > 100
        assert 20e9 < gpu.room < gpu.memory
