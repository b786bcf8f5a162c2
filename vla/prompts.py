"""Prompts: the text that a policy reads, of the instruction and, for pi0.5, of the state in words.

    instruction  open the drawer
    paligemma    open the drawer⏎
    pi0          the same, with `_` and line breaks inside the instruction as spaces and none around it
    pi05         Task: open the drawer, State: 127 255 0;⏎Action:␣

⏎ and ␣ are a line break and a space. The published weights were trained on such texts: those of pi0 and pi0.5 are the
ones of openpi's tokenizer, PaliGemma's is the one of its processor in transformers.

A state is said in 256 bins of equal width over [-1, 1), numbered from 0; what lies below is -1, what lies above 255.
Their edges are multiples of 1/128, so a float32 state has the same bin in any arithmetic; one that was normalised in
other arithmetic, or with another eps, can lie on the other side of an edge.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int64

from vla.terms import PromptName

BINS = 256
BEGIN = "<bos>"
"""The token that prompts begin with where the tokenizer has it."""


def reads_state(name: PromptName) -> bool:
    """Whether the prompt depends on the state."""
    return name == "pi05"


def begins(name: PromptName) -> bool:
    """Whether the prompt begins with `BEGIN`: a bare instruction is the tokenizer's own business."""
    return name != "instruction"


def write(name: PromptName, instruction: str, state_S: Float[np.ndarray, "S"] | None = None) -> str:
    """The prompt; `state_S` is normalised and of the robot's own dimensions, without any that fill it up."""
    if not reads_state(name):
        return _filled(name, instruction, ())
    if state_S is None:
        raise AssertionError(f"expected a state for prompt {name}, which says it, found none")
    return _filled(name, instruction, state_bins(state_S).tolist())


def texts_of_all_words(name: PromptName, instructions: Sequence[str]) -> list[str]:
    """Prompts that hold every word that those of the given instructions can, whatever the state."""
    texts = [_filled(name, instruction, ()) for instruction in instructions]
    return [*texts, _filled(name, "", range(-1, BINS))] if reads_state(name) else texts


def state_bins(state_S: Float[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
    """The bin of each value: -1 below -1, 0 at it, 255 at 1 and above."""
    return np.digitize(state_S, np.linspace(-1, 1, BINS + 1)[:-1]) - 1


def _filled(name: PromptName, instruction: str, bins: Iterable[int]) -> str:
    match name:
        case "instruction":
            return instruction
        case "paligemma":
            return f"{instruction}\n"
        case "pi0":
            return f"{_cleaned(instruction)}\n"
        case "pi05":
            return f"Task: {_cleaned(instruction)}, State: {' '.join(map(str, bins))};\nAction: "


def _cleaned(instruction: str) -> str:
    return instruction.strip().replace("_", " ").replace("\n", " ")
