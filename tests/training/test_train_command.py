"""`bobot train` on a tiny recipe: from corpora to a file that gives back the trained model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from bobot.cli import main
from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama
from bobot.text import load_tokenizer
from bobot.training import load_recipe
from bobot.training.saving import load_newest
from bobot.weights.load import load_model

TEXTS = [
    "3 + 4",
    "Tale 7: the cat saw",
    "  two  spaces\n\n\nand lines",
    "caf\u00e9 \U0001f600 12345",
]


def logits(model: Llama, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        hidden_TD = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttention())
        return model.logits(hidden_TD)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The recipe and the folder in which `bobot train` has run it."""
    from tests.training.conftest import make_recipe

    recipe = make_recipe(tmp_path_factory.mktemp("train") / "recipe")
    out = recipe.parent / "out"
    assert (
        main(["train", str(recipe), "--data", str(recipe.parent / "data"), "--out", str(out)]) == 0
    )
    return recipe, out


def test_the_exported_file_answers_as_the_trained_model_within_q8_0(
    trained: tuple[Path, Path],
) -> None:
    recipe, out = trained
    saved = load_newest(out / "sft", print)
    assert saved is not None
    model = Llama(load_recipe(recipe).model.llama_config(288))
    model.load_state_dict(
        {**saved.model, "lm_head.weight": saved.model["model.embed_tokens.weight"]}
    )
    stored, report = load_model(out / "tiny.gguf", dtype="float32")
    assert report.dialect == "gguf"
    ids = list(range(40, 90))
    wanted, found = logits(model, ids), logits(stored, ids)
    error = float((wanted - found).abs().max())
    size = float(wanted.abs().max())
    assert error < 0.03 * size, f"max |difference| {error} where logits reach {size}"
    for name, parameter in stored.named_parameters():
        worst = float((parameter - saved.model[name]).abs().max())
        block = float(saved.model[name].abs().max())
        assert worst <= block / 127, f"{name}: {worst} is more than a Q8_0 step of {block / 127}"


def test_the_tokenizer_inside_the_file_is_the_trained_one(trained: tuple[Path, Path]) -> None:
    _, out = trained
    trained_tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    embedded = load_tokenizer(out / "tiny.gguf")
    for text in TEXTS:
        wanted = trained_tokenizer.encode(text, add_special_tokens=False).ids
        assert embedded.encode(text) == wanted, text
        assert embedded.decode(wanted) == text
    specials = {trained_tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert embedded.eos_ids == specials


def test_the_template_gives_the_tokens_the_model_was_trained_on(trained: tuple[Path, Path]) -> None:
    from bobot.training.chatml import encode_conversation

    _, out = trained
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  3 + 4 "},
        {"role": "assistant", "content": "3 plus 4 is 7."},
        {"role": "user", "content": "<|im_end|> no special"},
    ]
    embedded = load_tokenizer(out / "tiny.gguf")
    rendered = embedded.render(messages[:3], add_generation_prompt=False)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n3 + 4<|im_end|>\n"
        "<|im_start|>assistant\n3 plus 4 is 7.<|im_end|>\n"
    )
    trained_tokenizer = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    ids, _ = encode_conversation(trained_tokenizer, messages[:3])
    assert embedded.encode(rendered, allow_special=True) == ids


def test_the_file_says_how_to_sample_it(trained: tuple[Path, Path]) -> None:
    _, out = trained
    _, report = load_model(out / "tiny.gguf")
    assert report.generation_config == pytest.approx({"temperature": 0.3, "top_p": 0.9}, rel=1e-6)


def test_a_second_run_does_nothing_and_says_so(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = trained
    before = (out / "tiny.gguf").stat().st_mtime_ns
    assert main(["train", str(recipe), "--data", "/nowhere", "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert (out / "tiny.gguf").stat().st_mtime_ns == before
    assert told.count("done before") == 3, told


def test_the_card_names_every_source_with_licence_and_checksum(trained: tuple[Path, Path]) -> None:
    recipe, out = trained
    card = (out / "MODEL_CARD.md").read_text()
    sums = (out / "SHA256SUMS").read_text().split()
    assert sums == [hashlib.sha256((out / sums[1]).read_bytes()).hexdigest(), sums[1]]
    (corpus,) = load_recipe(recipe).corpora
    for wanted in (corpus.name, corpus.license, corpus.source, corpus.sha256, "talk/rows.py"):
        assert wanted in card, wanted


def test_a_missing_corpus_says_where_to_get_it(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(
        ["train", str(tiny_recipe), "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    )
    told = capsys.readouterr().err.splitlines()
    assert status == 1
    assert "tales.jsonl.xz" in told[-1] and "example.org/tales" in told[-1], told
    assert "--data" in told[-1]


def test_a_changed_corpus_is_refused_with_both_checksums(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import lzma

    data = tiny_recipe.parent / "data"
    (data / "tales.jsonl.xz").write_bytes(lzma.compress(b'{"lang": "en", "text": "other"}\n'))
    assert main(["train", str(tiny_recipe), "--data", str(data), "--out", str(tmp_path)]) == 1
    assert "sha256" in capsys.readouterr().err.splitlines()[-1]


def test_a_truncated_corpus_is_refused_in_one_line(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tiny_recipe.parent / "data" / "tales.jsonl.xz"
    file.write_bytes(file.read_bytes()[:-20])
    assert (
        main(["train", str(tiny_recipe), "--data", str(file.parent), "--out", str(tmp_path)]) == 1
    )
    assert "can't be read" in capsys.readouterr().err.splitlines()[-1]
