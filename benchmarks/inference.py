"""How long a policy takes for one action chunk, against the same weights without compiling and without keeping context.

python benchmarks/inference.py [POLICY ...] [--calls 30] [--steps 10] [--no-compile]
python benchmarks/inference.py --real      # pi0.5 at its real size, random weights, two cameras: needs a GPU
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vla.models.bundle import parse_policy
from vla.models.compiled import compile_acting
from vla.models.policy import Interface, Observation, Policy, build_policy
from vla.planning.batch import empty_observation

PI_TINY: Mapping[str, Any] = {
    "action_horizon": 16,
    "num_steps": 10,
    "max_action_dim": 32,
    "vision": {"width": 64, "depth": 4, "mlp_dim": 256, "heads": 4, "patch_size": 14},
    "language": {"width": 128, "depth": 6, "mlp_dim": 512, "heads": 4, "kv_heads": 1, "head_dim": 32},
    "expert": {"width": 64, "depth": 6, "mlp_dim": 256, "heads": 4, "kv_heads": 1, "head_dim": 32},
    "vocabulary": None,
    "attention": "sdpa",
    "freeze_vision_tower": False,
    "freeze_language_model": False,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "tiny_vla": {
        "action_horizon": 8, "num_steps": 5, "width": 128, "heads": 4, "encoder_layers": 3, "expert_layers": 2,
    },
    "pi05": PI_TINY,
    "pi0": {**PI_TINY, "max_state_dim": 32},
}  # fmt: skip
REAL = {"vision": "so400m", "language": "gemma_2b", "expert": "gemma_300m", "vocabulary": 257152, "action_horizon": 50}
TINY_DATA = Interface(
    views=("front", "wrist"), image_size=(112, 112), state_dim=4, action_dim=4, max_tokens=32, vocabulary=500
)
REAL_DATA = Interface(
    views=("base", "wrist"), image_size=(224, 224), state_dim=8, action_dim=7, max_tokens=200, vocabulary=257152
)
WARM_UP = 3


class Forgetful:
    """The reference: the same weights, eager, and everything encoded again in each of the Euler steps."""

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy

    @torch.no_grad()
    def act(self, obs: Observation, noise_BHA: torch.Tensor, num_steps: int) -> torch.Tensor:
        current, real = noise_BHA, self.policy.spec.real_action_dim
        for step in range(num_steps, 0, -1):
            memory = self.policy.initial_memory(len(noise_BHA), noise_BHA.device)
            context = self.policy.encode(obs, memory).context
            time_QH = torch.full(current.shape[:2], step / num_steps, device=current.device)
            velocity = self.policy.velocity(context, current, time_QH)
            current = current - torch.cat([velocity[..., :real], noise_BHA[..., real:]], dim=-1) / num_steps
        return current


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", choices=[[], *SETTINGS], metavar="POLICY")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.real and device.type != "cuda":
        parser.error("--real needs a GPU")
    print(f"{'policy':<12}{'way':<28}{'ms (median)':>12}{'p95':>10}{'times':>8}{'differs by':>12}")
    for name in ["pi05"] if options.real else options.policies or SETTINGS:
        settings = {"name": name, **SETTINGS[name], **(REAL if options.real else {})}
        compare(settings, REAL_DATA if options.real else TINY_DATA, options, device)


def compare(settings: Mapping[str, Any], data: Interface, options: argparse.Namespace, device: torch.device) -> None:
    """Time one policy's ways to act on the same observation and noise."""
    policy = make_policy(settings, data, device, narrow=options.real)
    obs = filled(empty_observation(policy.spec, 1, steps=1)).to(device)
    noise = torch.randn(1, policy.spec.action_horizon, policy.spec.action_dim).to(device)

    def acting() -> torch.Tensor:
        return policy.act(obs, policy.initial_memory(1, device), noise, options.steps)[0]

    forgetful = Forgetful(policy)
    expected, reference = timed(lambda: forgetful.act(obs, noise, options.steps), options.calls, device)
    show(settings["name"], "eager, encoding every step", reference, reference[0], 0.0)
    ways = ["eager, encoding once"] + ([] if options.no_compile else ["compiled, encoding once"])
    for way in ways:
        if way.startswith("compiled"):
            compile_acting(policy, setting="compile")
        found, times = timed(acting, options.calls, device)
        show(settings["name"], way, times, reference[0], float((found - expected).abs().max()))


def make_policy(settings: Mapping[str, Any], data: Interface, device: torch.device, *, narrow: bool) -> Policy[Any]:
    """Random weights; those of a real size are bfloat16, as servers keep them."""
    module, cfg = parse_policy(settings, where="benchmark")
    torch.manual_seed(0)
    with torch.device(device):
        policy, _ = build_policy(module, cfg, module.make_spec(cfg, data))
    return policy.to(device=device, dtype=torch.bfloat16 if narrow else torch.float32).eval()


def filled(obs: Observation) -> Observation:
    """An observation of random values."""
    draw = torch.Generator().manual_seed(0)

    def fill(value: torch.Tensor) -> torch.Tensor:
        if value.dtype == torch.uint8:
            return torch.randint(0, 256, value.shape, dtype=torch.uint8, generator=draw)
        return torch.randn(value.shape, generator=draw) if value.is_floating_point() else value

    return obs.each(fill)


def timed(
    call: Callable[[], torch.Tensor], calls: int, device: torch.device
) -> tuple[torch.Tensor, tuple[float, float]]:
    """The answer, and the median and 95th percentile of milliseconds over `calls` calls after a warm-up."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(WARM_UP):
        answer = call().clone()
    times = []
    for _ in range(calls):
        wait()
        started = time.perf_counter()
        call()
        wait()
        times.append(1000 * (time.perf_counter() - started))
    return answer, (statistics.median(times), statistics.quantiles(times, n=20)[-1])


def show(policy: str, way: str, times: tuple[float, float], reference: float, difference: float) -> None:
    median, late = times
    print(f"{policy:<12}{way:<28}{median:>12.2f}{late:>10.2f}{reference / median:>8.1f}{difference:>12.1e}")


if __name__ == "__main__":
    main()
