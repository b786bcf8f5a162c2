"""What policies read, against prompts written out by hand, and as tokens."""

import numpy as np
import pytest
from vocabularies import BOS, PAD, a_bpe

from vla import prompts
from vla.errors import ConfigError
from vla.tokenization import Tokenize

INSTRUCTION = " open_the\ndrawer "
STATE = np.array([-1.0, 0.0, 0.999, -1.5], dtype=np.float32)
EVERY_BIN = np.arange(-129, 128, dtype=np.float32) / 128
"""-1 - 1/128, -1, -1 + 1/128, ...: the lower edge of each bin, from -1 to 255."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instruction", " open_the\ndrawer "),
        ("paligemma", " open_the\ndrawer \n"),
        ("pi0", "open the drawer\n"),
        ("pi05", "Task: open the drawer, State: 0 128 255 -1;\nAction: "),
    ],
)
def test_a_prompt_is_the_text_that_its_policy_was_trained_on(name, expected):
    assert prompts.write(name, INSTRUCTION, STATE) == expected


def test_every_bin_begins_at_its_lower_edge_whatever_the_float_type():
    for dtype in (np.float32, np.float64):
        edges = EVERY_BIN.astype(dtype)
        assert prompts.state_bins(edges).tolist() == list(range(-1, 256))
        below = np.nextafter(edges, dtype(-2))
        assert prompts.state_bins(below).tolist() == [-1, *range(-1, 255)]
    assert prompts.state_bins(np.array([1.0, 7.0, np.inf, -np.inf])).tolist() == [255, 255, 255, -1]


def test_a_prompt_that_says_the_state_is_not_written_without_one():
    with pytest.raises(AssertionError, match="expected a state for prompt pi05"):
        prompts.write("pi05", INSTRUCTION)


# As tokens.


def test_the_words_know_all_that_a_prompt_can_say_of_a_state():
    texts = ["open the drawer.", "press_the button"]
    tokenize = Tokenize.train(texts, 540, prompt="pi05")
    assert tokenize.unknown_words(texts) == []
    for text in texts:
        ids, _ = tokenize(text, EVERY_BIN)
        assert 1 not in ids
        ids, _ = tokenize(text, EVERY_BIN[1:])
        assert len(set(ids[5:].tolist())) > 256
    assert tokenize.unknown_words(["open the window"]) == ["window"]


@pytest.mark.parametrize("name", ["paligemma", "pi0", "pi05"])
def test_prompts_begin_with_one_bos_whether_or_not_the_tokenizer_adds_it(name):
    adding, bare = a_bpe(), a_bpe()
    bare.post_processor = None
    bare.enable_padding(direction="left", pad_id=1, pad_token=PAD, length=70)
    made = [Tokenize(tokenizer, 60, prompt=name)("open the drawer", STATE) for tokenizer in (adding, bare)]
    text = prompts.write(name, "open the drawer", STATE)
    expected = a_bpe().encode(text).ids
    assert expected.count(0) == 1
    for ids, is_pad in made:
        assert ids.tolist() == expected + [1] * (60 - len(expected))
        assert is_pad.tolist() == [False] * len(expected) + [True] * (60 - len(expected))


def test_a_bare_instruction_begins_as_its_tokenizer_says():
    bare = a_bpe()
    bare.post_processor = None
    ids, _ = Tokenize(bare, 20)("open the drawer")
    assert 0 not in ids
    assert bare.token_to_id(BOS) == 0


def test_a_bundle_s_tokenizer_goes_on_with_one_bos():
    bare = a_bpe()
    bare.post_processor = None
    tokenize = Tokenize(bare, 60, prompt="pi0")
    again = Tokenize.from_json(tokenize.to_json(), 60, prompt="pi0")
    assert again("open")[0].tolist() == tokenize("open")[0].tolist()


def test_prompts_together_are_those_one_by_one():
    tokenize = Tokenize(a_bpe(), 60, prompt="pi05")
    texts, states = ["open the drawer", "close it", "open the drawer"], np.stack([STATE, -STATE, STATE / 2])
    ids, is_pad = tokenize.batch(texts, states)
    alone = [tokenize(text, state) for text, state in zip(texts, states, strict=True)]
    assert ids.tolist() == [row.tolist() for row, _ in alone]
    assert is_pad.tolist() == [row.tolist() for _, row in alone]
    assert ids[0].tolist() != ids[2].tolist()


def test_a_prompt_that_the_state_makes_too_long_says_so():
    # "task : open , state : 0 128 255 - 1 ; action :" of which 5 say the 4 numbers.
    tokenize = Tokenize.train(["open"], 13, prompt="pi05")
    with pytest.raises(ConfigError, match=r"at most 13 tokens, found 14, 5 of them for the 4 numbers of the state\. "):
        tokenize("open", STATE)
    assert not tokenize.with_length(14)("open", STATE)[1].any()


def test_the_length_is_checked_for_states_at_either_end():
    # Of three numbers 255 the words are one each, of -1 two.
    Tokenize.train(["open"], 15, prompt="pi05").check_length(["open"], state_dim=3)
    with pytest.raises(ConfigError, match=r"at most 14 tokens, found 15, 6 of them for the 3 numbers"):
        Tokenize.train(["open"], 14, prompt="pi05").check_length(["open"], state_dim=3)
