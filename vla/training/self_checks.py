"""What a training checks of itself before its first step: mistakes that no loss curve would show.

Every rank makes every check, and a check that fails on one rank stops all of them. A failure is a defect of the policy
or of ours, so it is an AssertionError; what may be the data's way, such as values far out, is a warning.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vla import artifacts, keyed
from vla.models.policy import Batch, FlowLoss, Policy
from vla.training.distributed import Context
from vla.training.frozen import digest_of_tensors, frozen_parameters
from vla.training.state import TrainState

HASH_BITS = 38
"""So that the hashes of up to 32,768 samples add up exactly in float64."""
FAR = 10.0
"""A normalised value beyond this hints at statistics of other data."""
HIGH_LOSS = 100.0
"""A first loss so many times that of a policy that predicts nothing is a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check that the training may go on after."""

    check: str
    found: str
    warning: bool = False

    def __str__(self) -> str:
        return f"self-check: {self.check}: {self.found}"


@dataclass(slots=True)
class SelfChecks:
    """The checks of one job, and what they have found so far."""

    context: Context
    findings: list[Finding] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    def ranks_draw_differently(self, batches: Sequence[Batch]) -> None:
        """Ranks that share noise or flow times would learn less than their number promises."""
        for name, draws in (("noise", [b.noise_BPHA for b in batches]), ("flow times", [b.time_BPH for b in batches])):
            mine = [0.0] * self.context.world_size
            mine[self.context.rank] = sum(float(values.double().sum()) for values in draws)
            if len(set(self.context.sum(mine))) < self.context.world_size:
                raise AssertionError(f"expected {name} that differ between ranks, found the same on several")
        self._note("noise", f"differs between {self.context.world_size} ranks, and so do the flow times")

    def shards_make_the_batch(self, batches: Sequence[Batch], whole_B: Sequence[int]) -> None:
        """The samples of all ranks together are those of the step, `whole_B` being their uids, each held once."""
        held = [uid for batch in batches for uid in batch.sample_uid_B.tolist()]
        count, total = self.context.sum([float(len(held)), sum(map(_hash, held))])
        if (count, total) != (len(whole_B), sum(map(_hash, whole_B))):
            raise AssertionError(f"expected the {len(whole_B)} samples of the step once each, found {count:.0f} others")
        self._note("shards", f"{count:.0f} samples of the step are held once each by {self.context.world_size} ranks")

    def inputs_are_normalised(self, batches: Sequence[Batch], names: Mapping[str, Sequence[str]]) -> None:
        """Statistics of other data show as values far from those of a normalised quantity; `names` of the dims."""
        for quantity, values_ND in (("actions", _targets(batches)), ("state", _states(batches))):
            dims = len(names[quantity])  # padded dimensions, which are 0, have no name
            far = (values_ND.abs() > FAR).double().sum(0).tolist()
            sums = self.context.sum([float(len(values_ND)), float(values_ND.double().square().sum()), *far])
            rows, square, far = sums[0], sums[1], sums[2:]
            found = f"root mean square {(square / max(1.0, rows * dims)) ** 0.5:.2f} over {rows:.0f} rows"
            worst = max(range(dims), key=far.__getitem__, default=None)
            if worst is None or not far[worst]:
                self._note(f"normalised {quantity}", found)
                continue
            self._note(
                f"normalised {quantity}",
                f"{found}, but {far[worst]:.0f} values of dimension {names[quantity][worst]} lie beyond {FAR:.0f}: "
                f"statistics of other data, or outliers. Compare with 'vla inspect stats'.",
                warning=True,
            )

    def policy_learns_what_counts(
        self, policy: Policy[Any], batch: Batch, forward: Callable[[Batch], FlowLoss]
    ) -> None:
        """Every trainable weight is used, and where the weight of an action is 0 nothing is learned.

        For the latter the last dimension and the last step of the chunk are taken out of the objective, as padding is.
        Costs one more pass of a micro-batch through the policy; no gradient is left behind.
        """
        weight_BPHA = without_the_last(batch.weight_BPHA)
        layer, outputs = policy.action_output(), list[Tensor]()
        with recorded(layer, outputs):
            loss = forward(batch)
        named = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        error = (loss.error_BPHA * weight_BPHA).sum() + sum(loss.auxiliary.values())
        wanted = [*named.values(), *outputs]
        gradients = torch.autograd.grad(error, wanted, allow_unused=True)
        found = dict(zip(named, gradients, strict=False))
        self._agree(_unused(policy, found))
        self._note("weights", f"all {len(named)} trainable tensors take part in the loss")
        if layer is None:
            self._note("padding", f"not checked, as {type(policy).__name__} names no action_output")
            return
        rows = next((gradient for name, gradient in found.items() if named[name] is layer.weight), None)
        self._agree(_reached(weight_BPHA, rows=rows, outputs=gradients[len(named) :]))
        none = "" if rows is None else ", nor have the rows of a padded dimension"
        self._note("padding", f"an action without weight has no gradient{none}")

    def frozen_weights_rest(self, state: TrainState) -> None:
        """What takes no gradient has none, is not optimised, and holds the bits that it had."""
        frozen = frozen_parameters(state.policy)
        optimised = {id(value) for group in state.optimizer.param_groups for value in group["params"]}
        moved = [name for name, value in frozen.items() if value.grad is not None or id(value) in optimised]
        if not moved and digest_of_tensors(frozen) != state.frozen:
            moved = ["values that differ from those at the start"]
        self._agree(f"expected frozen weights to rest, found {', '.join(moved[:4])} trained" if moved else None)
        self._note("frozen weights", f"{len(frozen)} tensors rest" if frozen else "the policy has none")

    def first_loss_is_plausible(self, loss: float, batches: Sequence[Batch]) -> None:
        """A policy that predicts nothing has the mean square of noise - actions, which is 1 + that of the actions."""
        targets = torch.cat([batch.actions_BPHA[batch.weight_BPHA > 0] for batch in batches]).double()
        count, square = self.context.sum([float(targets.numel()), float(targets.square().sum())])
        nothing = 1 + square / max(1.0, count)
        found = f"{loss:.3g}, where predicting nothing has {nothing:.3g}"
        high = loss > HIGH_LOSS * nothing
        advice = ": look at the initialisation, or at the bundle of train.init_from" if high else ""
        self._note("first loss", found + advice, warning=high)

    def write(self, path: Path, *, step: int) -> None:
        """All findings of a start at `step`, for the process that shows them and for the records of the training."""
        seconds = round(time.perf_counter() - self._started, 3)
        findings = [asdict(item) for item in self.findings]
        artifacts.write_json(path, {"step": step, "findings": findings, "seconds": seconds})

    def _note(self, check: str, found: str, *, warning: bool = False) -> None:
        self.findings.append(Finding(check, found, warning))

    def _agree(self, problem: str | None) -> None:
        """Raise on all ranks when one of them has found a problem."""
        if self.context.sum([float(problem is not None)])[0]:
            raise AssertionError(problem or "another rank has found a mistake; its message says which")


def read_findings(path: Path) -> list[Finding]:
    """What `SelfChecks.write` has written."""
    values = artifacts.read_json(path, made_by="vla train")
    return [Finding(**item) for item in values["findings"]]


def check_frozen_at_end(state: TrainState) -> None:
    """Raise AssertionError when training has changed a weight that takes no gradient."""
    if digest_of_tensors(frozen_parameters(state.policy)) != state.frozen:
        raise AssertionError("expected the frozen weights of the start, found others: training has changed them")


def _hash(uid: int) -> float:
    return float(keyed.uid("shard", uid) & (2**HASH_BITS - 1))


def without_the_last(weight_BPHA: Float32[Tensor, "B P H A"]) -> Float32[Tensor, "B P H A"]:
    """The weights with 0 in the last dimension and the last step of the chunk, where there are several."""
    weight = weight_BPHA.clone()
    if weight.shape[-1] > 1:
        weight[..., -1] = 0
    if weight.shape[-2] > 1:
        weight[..., -1, :] = 0
    return weight


def recorded(layer: nn.Module | None, outputs: list[Tensor]) -> AbstractContextManager[Any]:
    """While this is open, what `layer` answers is added to `outputs`."""
    if layer is None:
        return nullcontext()
    return layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))


def _targets(batches: Sequence[Batch]) -> Float32[Tensor, "N A"]:
    """The supervised actions, padded dimensions included."""
    taken = [batch.actions_BPHA[(batch.weight_BPHA > 0).any(-1)] for batch in batches]
    return torch.cat(taken)


def _states(batches: Sequence[Batch]) -> Float32[Tensor, "N S"]:
    return torch.cat([batch.obs.state_BTS[~batch.obs.step_is_pad_BT] for batch in batches])


def _unused(policy: Policy[Any], gradients: Mapping[str, Tensor | None]) -> str | None:
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if not unused:
        return None
    shown = ", ".join(unused[:8]) + (f" and {len(unused) - 8} more" if len(unused) > 8 else "")
    return (
        f"{type(policy).__name__}: expected every trainable weight to take part in the loss, found unused: {shown}. "
        f"Use or freeze them: several workers would stop at the second step."
    )


def _reached(weight_BPHA: Tensor, *, rows: Tensor | None, outputs: Sequence[Tensor | None]) -> str | None:
    """What is wrong with the gradients of the output layer's rows, None where they are frozen, and of its outputs."""
    weight_QHA = weight_BPHA.flatten(0, 1)
    if any(gradient is None or gradient.shape != weight_QHA.shape for gradient in outputs):
        return "expected the velocity to be what action_output answers, found that it is something else"
    idle_A = (weight_QHA == 0).flatten(0, 1).all(0)
    given = [gradient for gradient in outputs if gradient is not None]
    leaks = any(bool(gradient[weight_QHA == 0].any()) for gradient in given)
    if leaks or (rows is not None and bool(rows[idle_A].any())):
        return "expected no gradient where the weight of an action is 0, found some: padding would be learned"
    learned = [gradient[weight_QHA > 0] for gradient in given] if rows is None else [rows[~idle_A]]
    if bool((~idle_A).any()) and not any(bool(part.any()) for part in learned):
        return "expected gradients where actions count, found none"
    return None
