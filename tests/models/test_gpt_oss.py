"""Our gpt-oss against transformers: logits and gradients on tiny random weights, float32; paged
against packed; its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_gpt_oss import CONFIG, GGUF_CONFIG, OPENAI_CONFIG
from torch import Tensor
from transformers import GptOssConfig as HFGptOssConfig
from transformers import GptOssForCausalLM

from bobot.engine.batch import build_batch
from bobot.engine.kv_cache import KVCache
from bobot.engine.request import Chunk, Request
from bobot.engine.sampling_params import SamplingParams
from bobot.errors import ConfigError
from bobot.layers.context import PackedAttention
from bobot.models.gpt_oss import GptOss
from bobot.models.gpt_oss_dialects import config_from_gguf, config_from_hf, config_from_openai

LENGTH = 61


def source(config: dict[str, Any]) -> Any:
    return type("Source", (), {"config": config, "tensors": {}})()


def gguf_source(changes: dict[str, Any]) -> Any:
    settings = {f"gpt-oss.{key}": value for key, value in {**GGUF_CONFIG, **changes}.items()}
    given = {key: value for key, value in settings.items() if value is not None}
    embedding = type("Info", (), {"shape": (50, 64)})()
    return type("Source", (), {"config": given, "tensors": {"token_embd.weight": embedding}})()


def from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers keeps the expert matrices as [E, in, out]."""
    ends = ("gate_up_proj", "down_proj")
    return {n: t.transpose(1, 2) if n.endswith(ends) else t for n, t in tensors.items()}


def pair() -> tuple[GptOss, GptOssForCausalLM]:
    """Our model and theirs with the same weights; the experts' inputs reach the clamp."""
    torch.manual_seed(0)
    kept = {k: v for k, v in CONFIG.items() if k not in ("architectures", "quantization_config")}
    reference = GptOssForCausalLM(HFGptOssConfig(**kept, attn_implementation="eager"))
    for name, parameter in reference.named_parameters():
        torch.nn.init.normal_(parameter, std=3.0 if name.endswith("gate_up_proj_bias") else 0.2)
    model = GptOss(config_from_hf(source(reference.config.to_dict())))
    model.load_state_dict(from_transformers(reference.state_dict()))
    return model, reference


def test_logits_and_gradients_equal_transformers() -> None:
    model, reference = pair()
    ids = torch.randint(0, CONFIG["vocab_size"], (LENGTH,))
    logits = model.logits(model(ids, torch.arange(LENGTH), PackedAttention()))
    expected = reference(ids[None]).logits[0]
    difference = (logits - expected).abs().max().item()
    assert difference <= 2e-5, f"logits differ by {difference:.2e}"

    for scores in (logits, expected):
        torch.nn.functional.cross_entropy(scores, ids.roll(-1)).backward()
    theirs = from_transformers(
        {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        difference = (parameter.grad - theirs[name]).abs().max().item()
        assert difference <= 1e-5, f"gradient of {name} differs by {difference:.2e}"


@torch.no_grad()
def test_paged_chunks_equal_packed_sequences() -> None:
    model, _ = pair()
    lengths, tables = (LENGTH, 23), ([5, 1, 7, 0, 3, 9, 2, 8], [4, 6, 10])
    ids = torch.randint(0, CONFIG["vocab_size"], (sum(lengths),))
    positions = torch.cat([torch.arange(length) for length in lengths])
    packed = model(ids, positions, PackedAttention([0, LENGTH]))
    cache = KVCache(model.kv_specs(), 11, 8, torch.float32, torch.device("cpu"))
    sequences = []
    for row, table in zip(ids.split(lengths), tables, strict=True):
        request = Request(0, row.tolist(), SamplingParams(), seed=0, max_len=999)
        sequences.append(request.sequences[0])
        sequences[-1].block_table = table
    found: list[list[Tensor]] = [[], []]
    for sizes in ((20, 1), (1, 21), (40, 1)):
        chunks = [Chunk(s, size) for s, size in zip(sequences, sizes, strict=True)]
        batch = build_batch(chunks, cache)
        hidden = model(batch.ids_T, batch.positions_T, batch.attn)
        for rows, sequence, chunk in zip(hidden.split(sizes), sequences, chunks, strict=True):
            found[sequences.index(sequence)].append(rows)
            sequence.num_computed_tokens += chunk.num_tokens
    difference = (torch.cat(found[0] + found[1]) - packed).abs().max().item()
    assert difference <= 1e-5, f"paged and packed differ by {difference:.2e}"


def test_all_forms_of_the_settings_say_the_same() -> None:
    expected = config_from_hf(source(CONFIG))
    assert config_from_openai(source(OPENAI_CONFIG)) == expected
    assert config_from_gguf(gguf_source({})) == expected
    nested = {k: v for k, v in CONFIG.items() if k not in ("rope_theta", "rope_scaling")}
    nested["rope_parameters"] = {"rope_theta": 150000.0, **CONFIG["rope_scaling"]}
    assert config_from_hf(source(nested)) == expected
    windows = [spec.sliding_window for spec in GptOss(expected).kv_specs()]
    assert windows == [7, None, 7]


def test_layers_alternate_where_no_list_is_given() -> None:
    config = config_from_hf(source({**CONFIG, "layer_types": None}))
    assert config.layer_types == tuple(CONFIG["layer_types"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["sliding_attention"] * 2}, ["layer_types", "2", "3"]),
        ({"layer_types": ["linear_attention"] * 3}, ["linear_attention", "full_attention"]),
        ({"layer_types": "full_attention"}, ["layer_types", "a list"]),
        ({"layer_types": [1, 2, 3]}, ["layer_types", "a list"]),
        ({"sliding_window": None}, ["sliding_window", "missing"]),
        ({"num_experts_per_tok": 7, "experts_per_token": 7}, ["7", "6"]),
        ({"experts_per_token": 3}, ["experts_per_token", "3", "2"]),
        ({"num_local_experts": None}, ["num_local_experts", "missing"]),
        ({"attention_bias": False}, ["attention_bias", "True"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings", "False"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"swiglu_limit": "7"}, ["swiglu_limit", "'7'"]),
        ({"rope_scaling": {"rope_type": "ntk"}}, ["ntk", "yarn"]),
        ({"surprise": 1}, ["surprise"]),
    ],
)
def test_a_wrong_config_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_hf(source({**CONFIG, **changes}))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("key", [key for key in OPENAI_CONFIG if key != "swiglu_limit"])
def test_every_setting_of_the_first_layout_is_needed(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is missing"):
        config_from_openai(source({**OPENAI_CONFIG, key: None}))


def test_an_unknown_setting_of_the_first_layout_is_refused() -> None:
    with pytest.raises(ConfigError, match="rms_norm_eps"):
        config_from_openai(source({**OPENAI_CONFIG, "rms_norm_eps": 1e-6}))


@pytest.mark.parametrize(
    "key",
    [
        "block_count",
        "attention.key_length",
        "attention.sliding_window",
        "expert_feed_forward_length",
        "expert_used_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
    ],
)
def test_a_gguf_without_a_needed_key_is_refused_with_its_name(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is missing"):
        config_from_gguf(gguf_source({key: None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope.scaling.type": "linear"}, ["rope.scaling.type", "linear", "yarn"]),
        ({"rope.scaling.type": None}, ["rope.scaling.type", "yarn"]),
        ({"attention.value_length": 16}, ["attention.value_length", "16", "8"]),
        ({"attention.sliding_window_pattern": 4}, ["attention.sliding_window_pattern"]),
    ],
)
def test_a_gguf_that_says_something_else_is_refused(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_gguf(gguf_source(changes))
    assert all(word in str(caught.value) for word in words), str(caught.value)
