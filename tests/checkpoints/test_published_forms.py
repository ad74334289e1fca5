"""The published forms of one model hold the same tensors (parity fixtures)."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bobot.checkpoints import Checkpoint, open_checkpoint

META_NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
GGUF_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}


def hf_name(name: str, names: dict[str, str], prefix: str) -> str:
    if name in names:
        return names[name]
    _, layer, rest = name.split(".", 2)
    assert name.startswith(prefix)
    return f"model.layers.{layer}.{names[rest]}"


def pairs_to_halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head from (pair, 2) to (2, pair): Meta's rotary layout to Hugging Face's."""
    rows, columns = weight.shape
    heads = weight.view(rows // head_dim, head_dim // 2, 2, columns)
    return heads.transpose(1, 2).reshape(rows, columns)


def as_hf(name: str, tensor: Tensor, head_dim: int) -> Tensor:
    rotated = name.endswith(("q_proj.weight", "k_proj.weight"))
    return pairs_to_halves(tensor, head_dim) if rotated else tensor


def head_dim_of(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        ("llama3", "meta"),
        ("llama3", "meta_mp2"),
        ("llama2", "meta"),
        ("llama2", "meta_mp2"),
        ("llama2_mha", "meta"),
        ("mistral", "native"),
        ("mistral_v3", "native"),
    ],
)
def test_native_files_hold_the_tensors_of_the_hf_files(folder: str, form: str, shared: Path):
    parity = shared / "parity" / folder
    with open_checkpoint(parity / "hf") as hf, open_checkpoint(parity / form) as native:
        assert native.dialect == ("mistral" if form == "native" else "meta")
        assert native.num_shards == (2 if form == "meta_mp2" else 1)
        head_dim = head_dim_of(hf.config)
        names = {hf_name(name, META_NAMES, "layers."): name for name in model_tensors(native)}
        assert names.keys() == hf.tensors.keys()
        for name, native_name in names.items():
            shape = hf.tensors[name].shape
            expected = hf.read(name, shape)
            found = as_hf(name, native.read(native_name, shape), head_dim)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected), f"{name} differs"


def model_tensors(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if name not in ("rope.freqs", "rope_freqs.weight")]


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_dense_gguf_holds_the_tensors_of_the_hf_file(kind: str, shared: Path):
    parity = shared / "parity" / "gguf" / "llama3"
    path = parity / f"model-{kind}.gguf"
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
    with open_checkpoint(parity / "hf") as hf, open_checkpoint(path) as ours:
        assert ours.dialect == "gguf" and ours.config["general.architecture"] == "llama"
        head_dim = head_dim_of(hf.config)
        names = {hf_name(name, GGUF_NAMES, "blk."): name for name in model_tensors(ours)}
        assert names.keys() == hf.tensors.keys()
        for name, gguf_name in names.items():
            shape = hf.tensors[name].shape
            found = ours.read(gguf_name, shape)
            assert found.dtype == (dtype if len(shape) > 1 else torch.float32)
            expected = hf.read(name, shape).to(found.dtype)
            assert torch.equal(as_hf(name, found, head_dim), expected), f"{name} differs"


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_quantized_gguf_reads_as_in_the_gguf_package(kind: str, shared: Path):
    path = shared / "parity" / "gguf" / "llama3_quantised" / f"model-{kind}.gguf"
    with open_checkpoint(path) as ours:
        for tensor in gguf.GGUFReader(path).tensors:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            found = ours.read(tensor.name, expected.shape)
            assert found.dtype == torch.float32
            assert np.array_equal(found.numpy(), expected), f"{tensor.name} differs"


def test_hf_folder_reads_as_in_the_safetensors_library(shared: Path):
    folder = shared / "parity" / "llama3" / "hf"
    expected = {}
    for path in folder.glob("*.safetensors"):
        expected |= load_file(path)
    with open_checkpoint(folder) as ours:
        assert ours.dialect == "hf" and ours.config["model_type"] == "llama"
        assert ours.tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(ours.read(name, tensor.shape), tensor), f"{name} differs"
