import time

from vla.periodic import repeated


def test_a_file_that_is_away_for_a_while_is_written_again_when_it_is_back(tmp_path):
    file, attempts = tmp_path / "heartbeat", []

    def beat() -> None:
        attempts.append(0)
        with file.open("r+b") as stream:
            stream.write(b"alive")

    with repeated(beat, every_s=0.01, name="heartbeat"):
        wait_for(lambda: len(attempts) > 2)
        file.touch()
        wait_for(lambda: file.read_bytes() == b"alive")
        file.unlink()
    assert not file.exists()


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
