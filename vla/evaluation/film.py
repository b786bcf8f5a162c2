"""A rollout as a person would like to see it: a small GIF with the instruction and the outcome, and a still.

GIF because it plays wherever an image does (README, MLflow, a mail) without a player; 128 colours keep it small.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vla import artifacts

FPS = 10.0
"""Pictures per second of robot time, at most; a film plays at the robot's speed."""
COLOURS = 128
BAR = 26
"""Rows of the caption below the picture."""
PAUSE_MS = 1500
"""How long the last frame stays before the GIF starts again."""
INK, SUCCESS, FAILURE = "#2e4057", "#2a9d5c", "#d1495b"


class Film:
    """Pictures of one rollout."""

    def __init__(self, instruction: str, *, control_fps: float) -> None:
        self._instruction = instruction
        self._stride = max(1, round(control_fps / FPS))
        self._frame_ms = round(1000 * self._stride / control_fps)
        self._pictures: list[UInt8[np.ndarray, "Y X 3"]] = []

    def watch(self, step: int, take: Callable[[], UInt8[np.ndarray, "Y X 3"]], *, last: bool = False) -> None:
        """Take a picture before control step `step` where one is due, and after the last step."""
        if last or step % self._stride == 0:
            self._pictures.append(take())

    def save(self, folder: Path, name: str, *, success: bool) -> None:
        """Write `<name>.gif` and, of its last picture, `<name>.png`."""
        last = len(self._pictures) - 1
        frames = [self._frame(index, success=success if index == last else None) for index in range(last + 1)]
        # One palette for all frames: colours do not flicker and unchanged pixels compress away.
        sample = np.concatenate([np.asarray(frame) for frame in [*frames[:: max(1, last // 4)], frames[last]]])
        palette = Image.fromarray(sample).quantize(COLOURS, dither=Image.Dither.NONE)
        small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        durations = [self._frame_ms] * last + [PAUSE_MS]
        with artifacts.new_file(folder / f"{name}.gif") as partial:
            small[0].save(partial, format="GIF", save_all=True, append_images=small[1:], duration=durations, loop=0)
        with artifacts.new_file(folder / f"{name}.png") as partial:
            frames[last].save(partial, format="PNG")

    def _frame(self, index: int, *, success: bool | None) -> Image.Image:
        picture = Image.fromarray(self._pictures[index])
        frame = Image.new("RGB", (picture.width, picture.height + BAR), "white")
        frame.paste(picture)
        draw, font = ImageDraw.Draw(frame), ImageFont.load_default(size=14)
        middle = picture.height + BAR // 2
        draw.text((8, middle), self._instruction, fill=INK, font=font, anchor="lm")
        if success is not None:
            text, colour = ("success", SUCCESS) if success else ("failed", FAILURE)
            draw.text((picture.width - 8, middle), text, fill=colour, font=font, anchor="rm")
        return frame
