"""Learns a byte-level BPE vocabulary and keeps it as a Hugging Face `tokenizer.json`.

The pre-tokenizer is the split of Qwen2 (single digits, words with their leading space), which
llama.cpp knows by name: `tokenizer.ggml.pre = qwen2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from bobot.checkpoints.writing import atomic_file
from bobot.text.byte_bpe import QWEN2_PATTERN
from bobot.training.chatml import SPECIAL_TOKENS


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` ids if the texts are rich enough; the specials come last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(tokenizer.to_str(pretty=True).encode())


def load_tokenizer_file(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
