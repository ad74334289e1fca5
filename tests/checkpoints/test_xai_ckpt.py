"""xAI's ckpt-0: order and names of its files, what is mapped, what is kept out of memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_pickles import PICKLES
from malformed_xai import QUERY, good_tree, hostile
from xai_checkpoint import Hole, Leaf, array, leaf_segments, tree_order, write_ckpt, write_leaf

from bobot.checkpoints import open_checkpoint
from bobot.checkpoints.array_pickle import read_array_pickle
from bobot.checkpoints.mapped import MappedFile
from bobot.errors import BobotError, UnsafeFileError
from bobot.models.grok1_dialects import PUBLISHED, XAI_NAMES
from bobot.quant.weight import QuantWeight
from bobot.weights.source import open_model, source_names

QUERY_NAME = "transformer/decoder_layer_0/multi_head_attention/query/w"


@pytest.mark.parametrize("form", ["numpy", "jax"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8], ids=str
)
def test_an_array_comes_back_bit_for_bit(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    stored = (torch.arange(-60, 60).view(4, 5, 6) / 3).to(dtype)
    for is_fortran in (False, True):
        segments = [b"\x80\x04", *array(stored, form, is_fortran=is_fortran), b"."]
        path = tmp_path / "tensor00000_000"
        path.write_bytes(b"".join(part for part in segments if isinstance(part, bytes)))
        found = read_array_pickle(file := MappedFile(path))
        assert not hasattr(found, "scales")
        assert torch.equal(found.tensor(file), stored)  # type: ignore[union-attr]


def test_eight_bit_numbers_are_views_of_the_file_and_scales_their_published_selves(
    tmp_path: Path,
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-128, 128, (8, 16, 8), dtype=torch.int8, generator=generator)
    scales = torch.rand(8, 4, 8, generator=generator).bfloat16()
    name = "transformer/decoder_layer_0/moe/linear_1/w"
    with open_checkpoint(write_ckpt(tmp_path, {**good_tree(), name: (values, scales)}, None)) as c:
        assert c.tensors[name].shape == (8, 8, 16) and c.tensors[name].dtype == "int8"
        weight = c.read_weight(name, (8, 8, 16))
        assert isinstance(weight, QuantWeight)
        parts = weight.parts
        assert torch.equal(parts["values"], values.transpose(1, 2))
        assert torch.equal(parts["scales"], scales.transpose(1, 2))
        expected = values.float() * scales.float().repeat_interleave(4, dim=1)
        assert torch.equal(weight.dequantize(), expected.transpose(1, 2))
        assert torch.equal(weight[3][2:5].dequantize(), expected[3].T[2:5])


def test_layer_10_comes_before_layer_2(tmp_path: Path) -> None:
    tree = dict(good_tree())
    for layer in range(1, 12):
        for name in good_tree():
            theirs = name.replace("decoder_layer_0", f"decoder_layer_{layer}")
            tree[theirs] = torch.full_like(good_tree()[name], layer)  # type: ignore[arg-type]
    with open_checkpoint(write_ckpt(tmp_path, tree, None)) as checkpoint:
        assert list(checkpoint.tensors) == tree_order(tree)
        for layer in (1, 2, 9, 10, 11):
            name = f"transformer/decoder_layer_{layer}/router/w"
            assert (checkpoint.read(name, (2, 8)) == layer).all()


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("os.system", "os.system"),
        ("builtins.eval", "builtins.eval"),
        ("stack global", "os.system"),
        ("call through the memo", "os.system"),
        ("INST", "os.system"),
        ("NEWOBJ", "subprocess.Popen"),
    ],
)
def test_the_error_names_the_file_and_what_it_would_call(
    name: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsafeFileError) as caught:
        open_checkpoint(hostile(PICKLES[name])(tmp_path))
    assert named in str(caught.value) and QUERY in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path: Path) -> None:
    folder = write_ckpt(tmp_path, good_tree(), None)
    path = folder / "ckpt-0" / QUERY
    weight = torch.ones(8, 8, dtype=torch.int8), torch.ones(8, 8).bfloat16()
    good = b"".join(part for part in leaf_segments(weight) if isinstance(part, bytes))

    def read() -> None:
        with open_checkpoint(folder) as checkpoint:
            checkpoint.read(QUERY_NAME, (8, 8))

    path.write_bytes(good)
    read()
    for keep in range(0, len(good), 3):
        path.write_bytes(good[:keep])
        with pytest.raises(BobotError):
            read()
    generator = random.Random(3)
    refused = 0
    for _ in range(200):
        changed = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            changed[generator.randrange(len(good))] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
        path.write_bytes(changed)
        try:
            read()
        except BobotError:
            refused += 1
    assert refused > 100, f"only {refused} of 200 changed files were refused"


def real_leaf(entry: dict[str, Any]) -> Leaf:
    weight = Hole(tuple(entry["shape"]), getattr(torch, entry["dtype"]))
    if entry["kind"] == "array":
        return weight
    return weight, Hole(tuple(entry["scales_shape"]), getattr(torch, entry["scales_dtype"]))


def test_the_published_checkpoint_opens_with_every_name_shape_and_size(
    shared: Path, tmp_path: Path
) -> None:
    """All 770 files at their real sizes, 318 GB of holes: opened, and each scale read."""
    path = shared / "parity" / "grok1" / "real_checkpoint_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    write_leaf(probe := tmp_path / "probe", Hole((1 << 28,), torch.int8))
    if probe.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("the file system keeps no holes")
    write_ckpt(tmp_path, {entry["name"]: real_leaf(entry) for entry in index}, None)
    with open_model(tmp_path) as source:
        assert source.config == PUBLISHED and source.ignored() == ()
        tensors = source.checkpoint.tensors
        assert list(tensors) == [entry["name"] for entry in index]
        total = sum(info.num_bytes for info in tensors.values())
        assert f"{total / 1e9:.2f}" == "318.24", f"{total} bytes"
        parameters = dict(source.model.named_parameters())
        assert sum(p.numel() for p in parameters.values()) == 315_684_820_992
        ours = {source_names(name, (), source.dialect)[0]: name for name in parameters}
        for entry in index:
            *stack, rows, columns = (1, *entry["shape"])
            shape = tuple(parameters[ours[entry["name"]]].shape)
            is_matrix = entry["name"].endswith("/w")
            wanted = (*stack, columns, rows)[1:] if is_matrix else tuple(entry["shape"])
            assert shape == tensors[entry["name"]].shape == wanted, entry["name"]
            assert tensors[entry["name"]].dtype == entry["dtype"]
            if entry["kind"] == "QuantizedWeight8bit":
                weight = source.read(ours[entry["name"]])
                assert isinstance(weight, QuantWeight)
                scales = weight.parts["scales"].transpose(-1, -2)
                assert list(scales.shape) == entry["scales_shape"], entry["name"]
                assert scales.dtype == torch.bfloat16


def test_every_name_of_the_map_is_a_name_of_the_tree() -> None:
    names = {name.replace("decoder_layer_0", "decoder_layer_{n}") for name in good_tree()}
    assert set(XAI_NAMES.values()) == names


MEASURED = """
import resource, sys
from pathlib import Path
import torch
from bobot.checkpoints import open_checkpoint
from bobot.weights import tile_cache
from bobot.weights.load import load_model

tile_cache.SMALL_BYTES = 0  # as a large model, whose tiles are written to the disk and mapped

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10

torch.set_num_threads(1)
kind, folder = sys.argv[1:]
before = peak()
if kind == "read":
    with open_checkpoint(folder) as checkpoint:
        for name, info in checkpoint.tensors.items():
            weight = checkpoint.read_weight(name, info.shape)
            parts = weight.parts.values() if hasattr(weight, "parts") else [weight]
            for part in parts:
                torch.count_nonzero(part.view(torch.int8) if part.itemsize == 1 else part)
            del weight, parts, part
else:
    load_model(folder, dtype=kind)
print(peak() - before)
"""


NUM_TOKENS, HIDDEN, EXPERTS, FFN = 1 << 15, 512, 8, 2752
LARGEST = NUM_TOKENS * HIDDEN * 4
"""The embedding, 64 MiB; a stack of experts takes 11."""


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five times the largest tensor, in seven layers."""
    d, e, f = HIDDEN, EXPERTS, FFN
    scales = torch.full((1, 1), 0.01).bfloat16()

    def packed(*shape: int, blocks: int = 1) -> Leaf:
        return torch.ones(shape, dtype=torch.int8), scales.expand(*shape[:-2], blocks, shape[-1])

    tree: dict[str, Leaf] = {
        "language_model/in_out_embed/embeddings": torch.ones(NUM_TOKENS, d),
        "language_model/rms_norm/scale": torch.ones(d),
    }
    for n in range(7):
        at = f"transformer/decoder_layer_{n}/"
        tree |= {f"{at}moe/{part}/w": packed(e, d, f) for part in ("linear", "linear_v")}
        tree[f"{at}moe/linear_1/w"] = packed(e, f, d, blocks=8)
        for part in ("query", "key", "value", "linear"):
            tree[f"{at}multi_head_attention/{part}/w"] = packed(d, d)
        tree |= {f"{at}rms_norm{i}/scale": torch.ones(d) for i in ("", "_1", "_2", "_3")}
        tree[f"{at}router/w"] = torch.ones(d, e)
    config = {
        "vocab_size": NUM_TOKENS,
        "emb_size": d,
        "widening_factor": 8.0625,
        "key_size": 128,
        "num_q_heads": 4,
        "num_kv_heads": 4,
        "num_layers": 7,
        "num_experts": e,
        "num_selected_experts": 2,
        "sequence_len": 64,
        "attn_output_multiplier": 0.1,
        "embedding_multiplier_scale": 1.0,
        "output_multiplier_scale": 1.0,
    }
    return write_ckpt(tmp_path_factory.mktemp("large"), tree, config)


@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM of /proc")
@pytest.mark.parametrize("kind", ["read", "float32", "bfloat16"])
def test_reading_takes_less_memory_than_twice_the_largest_tensor(
    large_checkpoint: Path, kind: str
) -> None:
    """Every byte read, one tensor after the other; or a model loaded in either dtype."""
    num_bytes = sum(path.stat().st_size for path in (large_checkpoint / "ckpt-0").iterdir())
    assert num_bytes > 4.5 * LARGEST
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, str(large_checkpoint)],
        env=os.environ | {"XDG_CACHE_HOME": str(large_checkpoint.parent / "cache")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    ratio = int(result.stdout) / LARGEST
    assert ratio < 2, f"{ratio:.2f} times the largest tensor of {LARGEST >> 20} MiB"
