"""A plan as text for a terminal."""

from collections.abc import Iterator

from vla.models.policy import Interface
from vla.planning.offered import PlannedConfig
from vla.planning.plan import Plan


def text_of(plan: Plan, cfg: PlannedConfig, interface: Interface, *, utilisation: float) -> str:
    """Everything that the plan says, and what it assumes."""
    blocks = [_subject(plan, cfg, interface), _parameters(plan), _memory(plan, cfg), _speed(plan, cfg, utilisation)]
    return "\n\n".join("\n".join(block) for block in blocks)


def _subject(plan: Plan, cfg: PlannedConfig, interface: Interface) -> Iterator[str]:
    rows, columns = interface.image_size
    recomputed = "with" if cfg.execution.activation_checkpointing else "without"
    yield (
        f"{cfg.policy['name']}: {len(interface.views)} views of {rows} x {columns}, {interface.max_tokens} tokens, "
        f"state {interface.state_dim}, actions {interface.action_dim} (tokenizer of {interface.vocabulary:,} ids)"
    )
    yield (
        f"{plan.workers} x {plan.gpu.name}, micro-batch {plan.micro_batch}, batch {cfg.train.batch_size}, "
        f"{cfg.train.precision}, {recomputed} activation checkpointing"
    )


def _parameters(plan: Plan) -> Iterator[str]:
    counts = plan.parameters
    yield f"{'parameters':<24}{'all':>16}{'trained':>16}"
    for part, (total, trained) in counts.by_part.items():
        yield f"  {part:<22}{total:>16,}{trained:>16,}"
    yield f"  {'together':<22}{counts.total:>16,}{counts.trained:>16,}"


def _memory(plan: Plan, cfg: PlannedConfig) -> Iterator[str]:
    memory = plan.training
    update = "" if cfg.train.optimizer.fused else " (train.optimizer.fused takes none)"
    yield "memory of each GPU while training"
    for name, size in (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("AdamW's moments", memory.moments),
        ("averaged weights", memory.average),
        ("passes, any batch", memory.fixed),
        ("passes, micro-batch", memory.activations),
    ):
        yield f"  {name:<22}{_size(size):>16}"
    yield f"  {'update':<22}{_size(memory.update):>16}  in place of the passes{update}"
    yield f"  {'at most':<22}{_size(memory.total):>16}  of {_size(plan.gpu.room)} for tensors"
    answer = "fits" if plan.fits else "does not fit"
    yield f"  {answer}; the largest micro-batch that fits: {plan.largest_micro_batch}"
    yield f"{'memory while acting':<24}{_size(plan.acting):>16}  float32, one robot"


def _speed(plan: Plan, cfg: PlannedConfig, utilisation: float) -> Iterator[str]:
    yield f"{'operations':<24}{plan.flops_per_sample / 1e12:>11.3g} TFLOP  a sample, forward and backward"
    if plan.samples_per_s is None:
        yield "speed                   not known for float32, of which data sheets state no comparable peak"
        return
    again = ", a third more for what is computed again" if cfg.execution.activation_checkpointing else ""
    yield (
        f"{'speed':<24}{plan.samples_per_s:>11.3g} samples/s  expected at {utilisation:.0%} of "
        f"{plan.gpu.tflops:g} TFLOP/s a GPU{again}"
    )
    if plan.hours is not None:
        yield f"{'time':<24}{plan.hours:>11.3g} hours  for {cfg.train.steps:,} steps of {cfg.train.batch_size}"


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
