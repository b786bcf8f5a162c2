"""Tokens of texts, by words and by other projects' tokenizers, each against hand-made results."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from vocabularies import PAD, a_bpe, write_bpe

from vla.errors import ConfigError, DataError
from vla.tokenization import Tokenize
from vla.transforms import TransformsConfig

SETTINGS = {
    "image_size": [4, 4],
    "max_tokens": 4,
    "normalization": {"state": "quantile", "actions": "min_max"},
    "augment": {"shift_px": 2},
}


def test_words_get_ids_and_the_rest_is_padding():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=5)
    ids, is_pad = tokenize("open the drawer")
    assert ids.dtype == np.int64
    assert is_pad.tolist() == [False, False, False, True, True]
    assert ids[3:].tolist() == [0, 0]
    assert len(set(ids[:3].tolist())) == 3
    assert ids[:3].min() > 1
    assert tokenize.vocabulary == 5


def test_no_word_of_a_large_vocabulary_is_lost():
    words = [f"w{index}" for index in range(30_005)]
    tokenize = Tokenize.train([" ".join(words)], max_tokens=1)
    assert tokenize.vocabulary == 30_007
    assert tokenize("w30004")[0][0] > 1


def test_case_does_not_matter_and_an_unknown_word_has_an_id_of_its_own():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=3)
    assert np.array_equal(tokenize("Open THE drawer")[0], tokenize("open the drawer")[0])
    assert tokenize("open the window")[0].tolist() == [*tokenize("open the drawer")[0][:2], 1]


def test_an_instruction_that_is_too_long_is_refused_with_the_setting_to_change():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=2)
    with pytest.raises(ConfigError, match=r"at most 2 tokens, found 3\. Raise transforms\.max_tokens"):
        tokenize("open the drawer")


@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=6), st.randoms())
def test_equal_sets_of_instructions_give_equal_ids(instructions, random):
    shuffled = [*instructions, *instructions[:2]]
    random.shuffle(shuffled)
    first, second = Tokenize.train(instructions, max_tokens=20), Tokenize.train(shuffled, max_tokens=20)
    assert first.to_json() == second.to_json()


def test_a_tokenizer_survives_a_json_round_trip_byte_for_byte():
    tokenize = Tokenize.train(["open the drawer", "press the button, now"], max_tokens=6)
    again = Tokenize.from_json(tokenize.to_json(), max_tokens=6)
    assert again.to_json() == tokenize.to_json()
    assert again.vocabulary == tokenize.vocabulary
    for text in ("open the drawer", "press the button, now", "shut the window"):
        for ours, theirs in zip(again(text), tokenize(text), strict=True):
            assert np.array_equal(ours, theirs)


def test_another_tokenizer_is_used_as_it_is_and_pads_with_its_own_token(tmp_path):
    tokenize = Tokenize.read(write_bpe(tmp_path / "tokenizer.json"), max_tokens=12)
    for text in ("open the drawer", "Open the drawer"):
        expected = a_bpe().encode(text).ids
        assert expected[0] == 0  # <bos>
        ids, is_pad = tokenize(text)
        assert ids.dtype == np.int64
        assert ids.tolist() == expected + [1] * (12 - len(expected))
        assert is_pad.tolist() == [False] * len(expected) + [True] * (12 - len(expected))
    assert not np.array_equal(tokenize("Open")[0], tokenize("open")[0])
    assert tokenize.vocabulary == 270


def test_a_tokenizer_that_cuts_and_pads_in_its_own_way_does_not(tmp_path):
    tokenizer = a_bpe()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(direction="left", pad_id=1, pad_token=PAD, length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = a_bpe().encode("open the drawer").ids
    tokenize = Tokenize.read(tmp_path / "tokenizer.json", max_tokens=len(expected) + 1)
    assert tokenize("open the drawer")[0].tolist() == [*expected, 1]
    with pytest.raises(ConfigError, match=rf"at most {len(expected) + 1} tokens, found {2 * len(expected)}\. Raise"):
        tokenize("open the drawer" * 2 + "open")


def test_a_tokenizer_without_padding_needs_one_to_be_stated(tmp_path):
    file = write_bpe(tmp_path / "tokenizer.json", special=("<s>", "<eos>"))
    with pytest.raises(
        ConfigError, match=r"a token for padding, found 0 among <s>, <eos>\. Set transforms\.tokenizer\.p"
    ):
        Tokenize.read(file, max_tokens=8)
    with pytest.raises(
        ConfigError, match=r"transforms\.tokenizer\.pad: expected a token of the tokenizer, found '</s>'"
    ):
        Tokenize.read(file, max_tokens=8, pad="</s>")
    tokenize = Tokenize.read(file, max_tokens=8, pad="<eos>")
    ids, is_pad = tokenize("open<eos>")
    assert ids[-1] == 1
    assert is_pad.tolist() == [False] * (8 - is_pad.sum()) + [True] * is_pad.sum()
    assert ids[~is_pad][-1] == 1
    again = Tokenize.from_json(tokenize.to_json(), max_tokens=8)
    assert [values.tolist() for values in again("open<eos>")] == [ids.tolist(), is_pad.tolist()]


def test_ids_may_have_gaps(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 9, "open": 4}, unk_token="[PAD]"))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenize = Tokenize.read(tmp_path / "tokenizer.json", max_tokens=2)
    assert tokenize.vocabulary == 10
    assert tokenize("open")[0].tolist() == [4, 9]


def test_words_of_a_bundle_that_does_not_state_its_padding_are_padded_with_0():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=5)
    plain = json.loads(tokenize.to_json())
    assert plain.pop("padding") is not None
    again = Tokenize.from_json(json.dumps(plain), max_tokens=5)
    assert again("open")[0].tolist() == tokenize("open")[0].tolist()
    assert again("open")[0][1:].tolist() == [0] * 4


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model_type": "gemma"}')
    with pytest.raises(
        DataError, match=r"tokenizer\.json: expected a tokenizer\.json of Hugging Face's.*Correct transforms"
    ):
        Tokenize.read(tmp_path / "tokenizer.json", max_tokens=4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("wordz", r"test: tokenizer: expected words, or the source of a tokenizer\.json, found 'wordz'\."),
        ({"source": "lab/words", "revison": "v3"}, r"test: tokenizer\.revison: .*Did you mean 'revision'"),
        (
            {"source": "../words", "revision": "v3"},
            r"test: tokenizer: expected a source OWNER/NAME beside a revision, fo",
        ),
    ],
)
def test_a_wrong_choice_of_tokenizer_is_told_in_one_message(value, message):
    with pytest.raises(ConfigError, match=message):
        TransformsConfig.parse({**SETTINGS, "tokenizer": value}, where="test")
