"""A small `tokenizer.json` as other projects have them."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

BOS, PAD = "<bos>", "<pad>"
TEXTS = ("open the drawer", "open the faucet", "Close the drawer")


def a_bpe(*, special: tuple[str, ...] = (BOS, PAD)) -> Tokenizer:
    """Byte pairs of TEXTS, upper and lower case apart; the special tokens have ids 0, 1, ... and the first begins."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
    )
    return tokenizer


def write_bpe(file: Path, *, special: tuple[str, ...] = (BOS, PAD)) -> Path:
    """Write `a_bpe` and return its path."""
    a_bpe(special=special).save(str(file))
    return file
