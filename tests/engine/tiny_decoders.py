"""A tiny model of each family that the C++ decoder computes, with any kind of weights, and the two
ways to its logits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bobot.engine.fused import fused_decoder
from bobot.engine.kv_cache import KVCache
from bobot.layers.context import PackedAttention
from bobot.layers.linear import Embedding, Linear
from bobot.layers.lora import Adapter, applied
from bobot.models.deepseek_v3 import DeepseekV3, DeepseekV3Config
from bobot.models.gpt_oss import FULL, SLIDING, GptOss, GptOssConfig
from bobot.models.grok1 import Grok1, Grok1Config
from bobot.models.llama import Llama, LlamaConfig
from bobot.models.mixtral import Mixtral, MixtralConfig
from bobot.ops.rope import RopeParameters
from bobot.quant import scaled
from bobot.quant.gguf_types import BLOCK_TYPES, quantize_q8_0, weight_from_blocks
from bobot.quant.grid import GRIDS, round_to_nearest
from bobot.quant.tiles import Activations, tiled, with_activations
from bobot.quant.weight import QuantWeight, Weight, stack, values_of
from bobot.weights.source import split_name

SETTINGS: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
}
YARN = RopeParameters(
    theta=150000.0, kind="yarn", factor=32.0, original_max_position_embeddings=16, truncate=False
)
YARN_OF_SCALE = RopeParameters(
    kind="yarn", factor=32.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0
)
LLAMA3 = RopeParameters(kind="llama3", factor=8.0, original_max_position_embeddings=16)
KINDS = {kind.name: kind for kind in BLOCK_TYPES.values()}
Packing = Callable[[Tensor], Weight]


def llama(**changes: Any) -> Llama:
    return Llama(LlamaConfig(**SETTINGS | changes))


def mixtral(**changes: Any) -> Mixtral:
    more: dict[str, Any] = {"num_local_experts": 5, "num_experts_per_tok": 2}
    return Mixtral(MixtralConfig(**SETTINGS | more | changes))


def gpt_oss(**changes: Any) -> GptOss:
    more: dict[str, Any] = {
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "layer_types": (SLIDING, FULL, SLIDING),
        "sliding_window": 7,
        "rope": YARN,
        "attention_bias": True,
    }
    return GptOss(GptOssConfig(**SETTINGS | more | changes))


def grok1(**changes: Any) -> Grok1:
    """Token 0 is padding."""
    more: dict[str, Any] = {
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "embedding_multiplier_scale": 5.5,
        "output_multiplier_scale": 0.6,
        "attn_output_multiplier": 0.2,
        "max_attn_value": 3.0,
    }
    return Grok1(Grok1Config(**_known(Grok1Config, SETTINGS | more | changes)))


def deepseek_v3(**changes: Any) -> DeepseekV3:
    """One layer without experts, two with."""
    more: dict[str, Any] = {
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "q_lora_rank": 64,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "n_group": 3,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "rope": YARN_OF_SCALE,
    }
    return DeepseekV3(DeepseekV3Config(**_known(DeepseekV3Config, SETTINGS | more | changes)))


FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": llama,
    "mixtral": mixtral,
    "gpt_oss": gpt_oss,
    "grok1": grok1,
    "deepseek_v3": deepseek_v3,
}


def _known(config: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those that a family has."""
    return {name: settings[name] for name in config.__dataclass_fields__ if name in settings}


def _q8_0(weight: Tensor) -> Weight:
    return weight_from_blocks(KINDS["Q8_0"], quantize_q8_0(weight).view(len(weight), -1))


def _q4_k(weight: Tensor) -> Weight:
    """Random blocks of about the weight's size: nothing here packs Q4_K."""
    blocks = torch.randint(0, 256, (weight.numel() // 256, 144), dtype=torch.uint8)
    scales = torch.tensor([1e-4, 8e-4]).expand(len(blocks), 2) * (0.5 + torch.rand(len(blocks), 1))
    blocks[:, :4] = scales.half().contiguous().view(torch.uint8)
    return weight_from_blocks(KINDS["Q4_K"], blocks.view(len(weight), -1))


def _fp8(weight: Tensor) -> Weight:
    scales = weight.abs().amax(1, keepdim=True) / 448
    values = (weight / scales).to(torch.float8_e4m3fn)
    return scaled.weight_from_parts(values, scales, 1, weight.shape[1])


def _int8_and_fp8(weight: Tensor) -> Weight:
    """Layers with the same input have both forms of weights: integers and others."""
    return _fp8(weight) if weight.shape[0] <= 64 else PACKINGS["int8"](weight)  # pyright: ignore[reportOptionalCall]


PACKINGS: dict[str, Packing | None] = {
    "float32": None,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "int8": lambda weight: round_to_nearest(weight, GRIDS["int8"]),
    "int4": lambda weight: round_to_nearest(weight, GRIDS["int4"]),
    "mxfp4": lambda weight: round_to_nearest(weight, GRIDS["mxfp4"]),
    "fp8": _fp8,
    "int8 and fp8": _int8_and_fp8,
    "bfloat16 tiles": lambda weight: tiled(weight.bfloat16()),
}


def filled(
    model: Any,
    packing: str = "float32",
    *,
    is_tiled: bool = False,
    activations: Activations = None,
) -> Any:
    """The model with random weights, its matrices packed; the routers stay plain."""
    torch.manual_seed(3)
    model = model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(std=0.12)
    if PACKINGS[packing] is None:
        return model

    def pack(weight: Tensor) -> Weight:
        packed = PACKINGS[packing](weight)  # pyright: ignore[reportOptionalCall]
        if not is_tiled or not isinstance(packed, QuantWeight):
            return packed
        tiles = tiled(packed)
        return tiles if activations is None else with_activations(tiles, activations)

    for name, module in model.named_modules():
        if isinstance(module, Linear | Embedding) and not name.endswith(("router", ".gate")):
            _replace(module, "weight", pack(values_of(module.weight)))
        elif name.endswith("experts"):
            for key, parameter in list(module.named_parameters()):
                if parameter.ndim == 3:
                    _replace(module, key, stack([pack(matrix) for matrix in parameter]))
    return in_dtype(model, torch.float32)


def in_dtype(model: Any, dtype: torch.dtype) -> Any:
    """The model, in place, with plain weights and activations in that dtype, but those that its
    family keeps in float32.
    """
    model.model.embed_tokens.dtype = dtype
    kept = getattr(model, "float32_parameters", ())
    named = [(name, p, p.data) for name, p in model.named_parameters()]
    model.to(dtype)
    for name, parameter, values in named:
        if split_name(name)[0] in kept:
            parameter.data = values
    return model


def _replace(module: nn.Module, name: str, weight: Weight) -> None:
    delattr(module, name)
    setattr(module, name, weight)


def by_module(
    model: Any, sequences: list[list[int]], adapters: Sequence[Adapter | None] = ()
) -> list[Tensor]:
    """Logits (T, V) of every token, each sequence through packed attention at once, under its
    adapter.
    """
    results = []
    for n, ids in enumerate(sequences):
        adapter = adapters[n] if adapters else None
        with applied(model, [] if adapter is None else [(adapter, slice(None))]):
            hidden_TD = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttention())
        results.append(model.logits(hidden_TD))
    return results


def by_decoder(
    model: Any,
    sequences: list[list[int]],
    *,
    most: int = 16,
    block_size: int = 4,
    num_threads: int = 1,
    adapters: Sequence[Adapter | None] = (),
) -> list[Tensor]:
    """The same in steps of at most `most` tokens from any of the sequences, whose blocks lie
    scattered in the cache.
    """
    draw = random.Random(7)
    num_blocks = sum(-(-len(ids) // block_size) for ids in sequences) + 3
    weight = next(p for p in model.parameters() if p.is_floating_point())
    cache = KVCache(model.kv_specs(), num_blocks, block_size, weight.dtype, weight.device)
    fused = fused_decoder(model, cache)
    assert fused is not None
    free = draw.sample(range(num_blocks), num_blocks)
    tables = [[free.pop() for _ in range(-(-len(ids) // block_size))] for ids in sequences]
    results: list[list[Tensor]] = [[] for _ in sequences]
    while any(len(result) < len(ids) for result, ids in zip(results, sequences, strict=True)):
        chunks, users, owners, room = [], [], [], draw.randint(1, most)
        for n, ids in draw.sample(list(enumerate(sequences)), len(sequences)):
            first = len(results[n])
            count = min(draw.randint(0, room), len(ids) - first)
            if count:
                chunks.append((first, ids[first : first + count], tables[n]))
                users.append(n)
                owners += [n] * count
                room -= count
        # Rows of logits in another order than the tokens.
        rows = draw.sample(range(len(owners)), len(owners))
        logits_RV = torch.full((len(rows), fused.vocab_size), float("nan"))
        used = [fused.native_adapter(adapters[n]) for n in users] if adapters else []
        fused.native.step(chunks, rows, logits_RV.numpy(), num_threads, used)
        for row, owner in enumerate(owners):
            results[owner].append(logits_RV[rows.index(row)])
    return [torch.stack(result) for result in results]
