"""Loading a folder: every name accounted for, dtypes kept or changed as asked, mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import bobot
from bobot import kernels
from bobot.errors import BobotError, CheckpointError, RequestError, UsageError
from bobot.hub.names import embedded_folder
from bobot.models.llama import Llama
from bobot.models.llama_dialects import config_from_hf
from bobot.weights.load import load_model

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights for CONFIG under their published names."""
    torch.manual_seed(0)
    source = type("Source", (), {"config": CONFIG})()
    state = Llama(config_from_hf(source)).state_dict()  # type: ignore[arg-type]
    return {k: v.to(dtype).clone() for k, v in state.items() if k != "lm_head.weight"}


def write(
    folder: Path, weights: dict[str, Tensor] | None = None, config: dict[str, Any] = CONFIG
) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors() if weights is None else weights, folder / "model.safetensors")
    return folder


def message(folder: Path, **options: Any) -> str:
    """The one line with which loading the folder fails."""
    with pytest.raises(BobotError) as caught:
        bobot.load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_checkpoints_own_dtype_is_kept_unless_another_is_asked(tmp_path: Path) -> None:
    write(tmp_path, tensors(torch.bfloat16))
    assert load_model(tmp_path)[0].lm_head.weight.dtype == torch.bfloat16
    model, report = load_model(tmp_path, dtype="float32")
    assert model.lm_head.weight.dtype == report.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert report.num_parameters == sum(t.numel() for t in tensors().values())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = tensors()
    del weights["model.layers.1.mlp.up_proj.weight"]
    assert "model.layers.1.mlp.up_proj.weight" in message(write(tmp_path, weights))


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    weights = {**tensors(), "model.layers.0.self_attn.q_proj.bias": torch.zeros(16)}
    assert "unexpected" in (line := message(write(tmp_path, weights))) and "q_proj.bias" in line


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path: Path) -> None:
    weights = {**tensors(), "model.norm.weight": torch.ones(17)}
    line = message(write(tmp_path, weights))
    assert "model.norm.weight" in line and "17" in line and "16" in line


def test_more_layers_than_tensors_are_refused_at_once(tmp_path: Path) -> None:
    line = message(write(tmp_path, config={**CONFIG, "num_hidden_layers": 2**20}))
    assert "1048576" in line and "20 tensors" in line


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    weights = {**tensors(), "model.norm.weight": torch.ones(16, dtype=torch.int32)}
    line = message(write(tmp_path, weights))
    assert "model.norm.weight" in line and "int32" in line and "bfloat16" in line


def test_a_tied_tensor_may_be_stored_twice_if_it_is_the_same(tmp_path: Path) -> None:
    weights = tensors()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    _, report = load_model(write(tmp_path, weights))
    assert report.ignored == ("lm_head.weight",)
    weights["lm_head.weight"][3, 3] += 1
    write(tmp_path, weights)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*differ"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "int8"}, ["int8", "bfloat16"]),
        ({"device": "tpu"}, ["tpu", "cpu"]),
        ({"quantize": "int3"}, ["int3", "int4"]),
    ],
)
def test_wrong_options_are_usage_errors(
    tmp_path: Path, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        bobot.load(write(tmp_path), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("ids", [[], [40], [-1], list(range(33))])
def test_prompts_that_cannot_run_are_refused_with_numbers(tmp_path: Path, ids: list[int]) -> None:
    model = bobot.load(write(tmp_path))
    with pytest.raises(RequestError):
        model.logits(ids)
    with pytest.raises(RequestError):
        list(model.generate(ids, max_tokens=1))


def test_generating_without_a_tokenizer_gives_ids_and_no_text(tmp_path: Path) -> None:
    model = bobot.load(write(tmp_path))
    pieces = list(model.generate([1, 2, 3], max_tokens=5, temperature=0))
    assert [len(piece.ids) for piece in pieces] == [1] * 5
    assert "".join(pieces) == "" and pieces[-1].finish_reason == "length"
    greedy = []
    for _ in range(5):
        greedy.append(int(model.logits([1, 2, 3, *greedy])[-1].argmax()))
    assert [piece.ids[0] for piece in pieces] == greedy
    with pytest.raises(BobotError, match="tokenizer"):
        list(model.generate([1], stop="x"))


def test_closing_a_stream_frees_its_blocks(tmp_path: Path) -> None:
    model = bobot.load(write(tmp_path))
    before = model.engine.stats().num_free_blocks
    stream = model.generate([1, 2, 3], max_tokens=20, temperature=0)
    next(stream)
    assert model.engine.stats().num_free_blocks < before
    stream.close()
    assert model.engine.stats().num_free_blocks == before
    assert not model.engine.has_unfinished()


def test_two_streams_at_once_give_what_each_gives_alone(tmp_path: Path) -> None:
    model = bobot.load(write(tmp_path))
    alone = [[p.ids[0] for p in model.generate([i], max_tokens=6, seed=i)] for i in (1, 2)]
    first, second = (model.generate([i], max_tokens=6, seed=i) for i in (1, 2))
    together = list(zip(first, second, strict=True))
    assert [a.ids[0] for a, _ in together] == alone[0]
    assert [b.ids[0] for _, b in together] == alone[1]


@pytest.mark.skipif(not kernels.available, reason="the extension is not built")
@pytest.mark.skipif(
    kernels.available and kernels.isa() == "portable", reason="no tiles without vectors"
)
def test_activations_of_8_bits_reach_the_products() -> None:
    plain, rounded = bobot.load(), bobot.load(activations="int8")
    ids = plain.encode("Halo, apa kabar hari ini?")
    exact, found = plain.logits(ids), rounded.logits(ids)
    error = float((found - exact).square().mean().sqrt() / exact.std())
    assert 1e-4 < error < 0.05, f"logits differ by {error:.1e} of their deviation"


def test_activations_of_8_bits_are_refused_where_they_are_no_choice(tmp_path: Path) -> None:
    embedded = embedded_folder()
    assert "this model computes in float32" in message(
        embedded, dtype="float32", activations="int8"
    )
    assert "activations is 'int4'; allowed: int8" in message(embedded, activations="int4")
    write(tmp_path, tensors(torch.bfloat16))
    assert "no weight of this model has a product" in message(tmp_path, activations="int8")
