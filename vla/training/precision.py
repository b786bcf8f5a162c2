"""The width of the numbers that a training computes with.

Weights, gradients, moments and averages are float32 always: AdamW's steps are smaller than bfloat16's spacing, so that
of bfloat16 weights only some per cent would ever move. What a precision below float32 narrows is the forward pass, by
autocast: matrix products take narrow inputs, errors and losses are float32 again.

bfloat16 has float32's range. float16 has not: small gradients vanish in it, so the loss is multiplied by a scale that
is as large as the gradients allow, and a step whose gradients overflow is skipped.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import torch

from vla.errors import ConfigError, DataError

Precision = Literal["float32", "bfloat16", "float16"]
FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps without overflow after which the scale is doubled."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """What a policy's forward pass runs under."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def check_supported(precision: Precision, device: torch.device) -> None:
    """GPUs older than Ampere only imitate bfloat16, at a fraction of float32's speed."""
    if (
        device.type == "cuda"
        and precision == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ConfigError(
            f"train.precision: expected what {torch.cuda.get_device_name(device)} computes with, found bfloat16. "
            f"Set it to float16 or float32."
        )


@dataclass(slots=True)
class LossScale:
    """What the loss is multiplied by: 1, or under float16 a power of two by the rule of `torch.amp.GradScaler`.

    GradScaler looks at the gradients once more by itself; here the norm that the loop reads anyway decides, which costs
    no further wait for the device and is equal on all ranks.
    """

    dynamic: bool
    factor: float
    finite: int = 0
    """Steps without overflow since the factor changed."""
    overflows: int = 0
    """Steps with overflow in a row."""
    skipped: int = 0
    """Steps with overflow since the start of the training."""

    @classmethod
    def of(cls, precision: Precision) -> Self:
        """The scale of the first step."""
        return cls(dynamic=True, factor=FIRST_SCALE) if precision == "float16" else cls(dynamic=False, factor=1.0)

    def follow(self, *, overflow: bool, step: int) -> None:
        """Take in whether the gradients of optimizer step `step` (from 1) have overflowed, where that is allowed for.

        Raises DataError when they do at a scale of 1, where scaling is no reason any more.
        """
        if not overflow:
            self.finite, self.overflows = self.finite + 1, 0
            if self.dynamic and self.finite == GROWTH_INTERVAL:
                self.factor, self.finite = self.factor * 2, 0
            return
        self.finite, self.overflows, self.skipped = 0, self.overflows + 1, self.skipped + 1
        if self.factor <= 1:
            raise DataError(
                f"train.precision: expected gradients within the range of float16, found an overflow in "
                f"{self.overflows} steps in a row, up to step {step}, down to a loss scale of {self.factor:g}. "
                f"Set it to bfloat16 or float32, or lower train.optimizer.lr."
            )
        self.factor /= 2

    def metrics(self) -> dict[str, float]:
        """For the log, where there is a scale."""
        return {"loss_scale": self.factor, "skipped_steps": float(self.skipped)} if self.dynamic else {}

    def notes(self) -> dict[str, Any]:
        """JSON-ready, for a checkpoint; `LossScale(**notes)` is equal."""
        return asdict(self)
