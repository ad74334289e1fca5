"""Grok-1 a second time, in numpy and float64, written from the formulas alone: one sequence, no
cache, no shared code. Also small random weights in the layout of xAI's tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xai_checkpoint import Leaf

Floats = NDArray[np.float64]

CONFIG: dict[str, Any] = {
    "model_type": "grok-1",
    "vocab_size": 40,
    "emb_size": 32,
    "widening_factor": 1.5,
    "key_size": 8,
    "num_q_heads": 4,
    "num_kv_heads": 2,
    "num_layers": 11,
    "num_experts": 8,
    "num_selected_experts": 2,
    "sequence_len": 64,
    "attn_output_multiplier": 0.4,
    "embedding_multiplier_scale": 5.5,
    "output_multiplier_scale": 3.0,
    "pad_token": 0,
    "eos_token": 2,
}
FFN_SIZE = 32


def random_tree(dtype: torch.dtype = torch.float32, *, is_quantized: bool) -> dict[str, Leaf]:
    """Weights for CONFIG as xAI's tree holds them: [in, out]; 8-bit with 1 or 8 rows of scales."""
    torch.manual_seed(7)
    d, h, n, k = 32, 8, 4, 2
    e, f = CONFIG["num_experts"], FFN_SIZE

    def matrix(*shape: int, blocks: int = 1) -> Leaf:
        if not is_quantized:
            return (torch.randn(shape) * shape[-2] ** -0.5).to(dtype)
        scales = torch.rand(*shape[:-2], blocks, shape[-1]) * 0.02 / shape[-2] ** 0.5 + 1e-4
        values = torch.randint(-128, 128, shape, dtype=torch.int8)
        return values, scales.bfloat16()

    def norm() -> Tensor:
        return torch.rand(d) + 0.5

    tree: dict[str, Leaf] = {
        "language_model/in_out_embed/embeddings": torch.randn(CONFIG["vocab_size"], d) * 0.2,
        "language_model/rms_norm/scale": norm(),
    }
    for layer in range(CONFIG["num_layers"]):
        at = f"transformer/decoder_layer_{layer}/"
        tree[f"{at}multi_head_attention/query/w"] = matrix(d, n * h)
        tree[f"{at}multi_head_attention/key/w"] = matrix(d, k * h)
        tree[f"{at}multi_head_attention/value/w"] = matrix(d, k * h)
        tree[f"{at}multi_head_attention/linear/w"] = matrix(n * h, d, blocks=8)
        tree[f"{at}moe/linear/w"] = matrix(e, d, f)
        tree[f"{at}moe/linear_v/w"] = matrix(e, d, f)
        tree[f"{at}moe/linear_1/w"] = matrix(e, f, d, blocks=8)
        tree[f"{at}router/w"] = torch.randn(d, e) * 0.3
        for which in ("", "_1", "_2", "_3"):
            tree[f"{at}rms_norm{which}/scale"] = norm()
    return tree


def values(leaf: Leaf) -> Floats:
    """The numbers of a leaf. A row of scales belongs to an equal share of the input axis."""
    if isinstance(leaf, Tensor):
        return leaf.double().numpy()
    weight, scales = leaf
    assert isinstance(weight, Tensor) and isinstance(scales, Tensor)
    factors = scales.double().numpy()
    out = weight.double().numpy().copy()
    share = out.shape[-2] // factors.shape[-2]
    for row in range(out.shape[-2]):
        out[..., row, :] *= factors[..., row // share, :]
    return out


def logits(tree: Mapping[str, Leaf], config: Mapping[str, Any], ids: list[int]) -> Floats:
    """Scores after every position: (len(ids), vocab_size)."""
    w = {path: values(leaf) for path, leaf in tree.items()}
    embedding = w["language_model/in_out_embed/embeddings"]
    x = embedding[ids] * config["embedding_multiplier_scale"]
    for layer in range(config["num_layers"]):
        at = f"transformer/decoder_layer_{layer}/"
        own = {path.removeprefix(at): leaf for path, leaf in w.items() if path.startswith(at)}
        out = _attention(own, config, _norm(x, own["rms_norm/scale"]), ids)
        x = x + _norm(out, own["rms_norm_1/scale"])
        out = _experts(own, config, _norm(x, own["rms_norm_2/scale"]))
        x = x + _norm(out, own["rms_norm_3/scale"])
    x = _norm(x, w["language_model/rms_norm/scale"])
    return x @ embedding.T * config["output_multiplier_scale"]


def _norm(x: Floats, weight: Floats) -> Floats:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def _attention(w: dict[str, Floats], config: Mapping[str, Any], x: Floats, ids: list[int]) -> Any:
    size, group = config["key_size"], config["num_q_heads"] // config["num_kv_heads"]
    q, k, v = (x @ w[f"multi_head_attention/{part}/w"] for part in ("query", "key", "value"))
    heads = []
    for head in range(config["num_q_heads"]):
        mine = slice(head * size, head * size + size)
        theirs = slice(head // group * size, head // group * size + size)
        scores = _rotate(q[:, mine]) @ _rotate(k[:, theirs]).T * config["attn_output_multiplier"]
        scores = 30 * np.tanh(scores / 30)
        for t in range(len(ids)):
            for s in range(len(ids)):
                if s > t or ids[s] == config["pad_token"]:
                    scores[t, s] = -1e30
        heads.append(_softmax(scores) @ v[:, theirs])
    return np.concatenate(heads, axis=1) @ w["multi_head_attention/linear/w"]


def _rotate(x: Floats) -> Floats:
    half = x.shape[1] // 2
    angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)
    first, second = x[:, :half], x[:, half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=1)


def _softmax(x: Floats) -> Floats:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _experts(w: dict[str, Floats], config: Mapping[str, Any], x: Floats) -> Floats:
    gates = _softmax(x @ w["router/w"])
    out = np.zeros_like(x)
    for t, row in enumerate(x):
        for e in np.argsort(-gates[t])[: config["num_selected_experts"]]:
            hidden = _gelu(row @ w["moe/linear/w"][e]) * (row @ w["moe/linear_v/w"][e])
            out[t] += gates[t, e] * (hidden @ w["moe/linear_1/w"][e])
    return out


def _gelu(x: Floats) -> Floats:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
