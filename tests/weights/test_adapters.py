"""LoRA adapters: the result is that of PEFT, and that of merged weights."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tiny_adapters import (
    TENSORS,
    layers_of,
    merge,
    random_matrices,
    settings_of,
    tiny_adapter,
    write_adapter,
)
from tiny_models import VOCAB, saved, transformers_logits
from torch import Tensor

import bobot
from bobot.checkpoints.lora_gguf import read_lora_gguf
from bobot.checkpoints.peft import read_peft
from bobot.engine import EngineConfig
from bobot.errors import BobotError, CheckpointError
from bobot.layers.context import PackedAttention
from bobot.layers.lora import applied
from bobot.ops.rope import pairs_from_halves
from bobot.quant.weight import QuantWeight
from bobot.weights.adapters import load_adapter, open_adapter
from bobot.weights.load import load_model

IDS = torch.randint(0, VOCAB, (24,), generator=torch.Generator().manual_seed(1))
SMALL = EngineConfig(max_num_seqs=4, num_blocks=32)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("llama"))


def logits(model, adapter=None) -> Tensor:
    rows = [] if adapter is None else [(adapter, slice(None))]
    with torch.no_grad(), applied(model, rows):
        return model.logits(model(IDS, torch.arange(len(IDS)), PackedAttention()))


def loaded(path: Path, folder: Path, **options):
    model, report = load_model(path, **options)
    return model, load_adapter(open_adapter(folder), model, report.family)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a part of the largest score."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # in peft
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}},
        {"alpha_pattern": {"^model.layers.0.self_attn.v_proj": 3, "o_proj": 1, "up_proj": 2.5}},
    ],
    ids=str,
)
def test_logits_are_those_of_transformers_with_peft(llama, tmp_path, settings):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=r".*\.(q_proj|v_proj|o_proj|up_proj|down_proj)",
        task_type="CAUSAL_LM",
        **settings,
    )
    base = AutoModelForCausalLM.from_pretrained(
        llama, dtype=torch.float32, attn_implementation="eager"
    )
    torch.manual_seed(2)
    theirs = peft.get_peft_model(base, config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        wanted = theirs.eval()(IDS[None]).logits[0]
    model, adapter = loaded(llama, tmp_path / "adapter")
    assert distance(logits(model, adapter), wanted) < 1e-5
    assert distance(logits(model), wanted) > 0.1


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "gpt_oss", "deepseek_v3"])
def test_logits_are_those_of_the_merged_weights(family, tmp_path):
    model, report = load_model(saved(family, tmp_path / "model"))
    endings = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    more = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "block_sparse_moe.gate")
    layers = layers_of(model, *endings, *more)
    tensors = random_matrices(layers, 5, std=0.15)
    names = [name.rpartition(".")[2] for name in layers]
    folder = write_adapter(tmp_path / "adapter", tensors, target_modules=sorted(set(names)))
    adapter = load_adapter(open_adapter(folder), model, report.family)
    plain, changed = logits(model), logits(model, adapter)
    assert torch.equal(logits(model), plain), "the adapter has left something behind"
    merge(model, tensors, dict.fromkeys(layers, 2.0))
    assert distance(changed, logits(model)) < 1e-5
    assert distance(changed, plain) > 0.1


def test_packed_weights_under_an_adapter_are_the_published_ones_and_its_product(llama, tmp_path):
    published = bobot.load(llama, quantize="int8", engine_config=SMALL)
    layers = layers_of(published.model)
    tensors = random_matrices(layers, 3)
    folder = write_adapter(tmp_path, tensors)
    model = bobot.load(llama, quantize="int8", adapters={"a": folder}, engine_config=SMALL)
    packed = model.model.get_submodule(next(iter(layers))).weight
    assert isinstance(packed, QuantWeight)
    unpacked = copy.deepcopy(published.model)
    for name in layers:
        module = unpacked.get_submodule(name)
        values = module.weight.dequantize()
        del module.weight
        module.weight = torch.nn.Parameter(values, requires_grad=False)
    merge(unpacked, tensors, dict.fromkeys(layers, 2.0))
    assert distance(model.logits(IDS, adapter="a"), logits(unpacked)) < 1e-4
    assert torch.equal(model.logits(IDS), published.logits(IDS))


def test_adapter_in_bfloat16_is_added_in_float32_to_a_model_in_bfloat16(llama, tmp_path):
    model, _ = load_model(llama)
    tensors = random_matrices(layers_of(model), 3, std=0.1)
    stored = {name: values.bfloat16() for name, values in tensors.items()}
    folder = write_adapter(tmp_path, stored)
    model, adapter = loaded(llama, folder, dtype="bfloat16")
    assert next(iter(adapter.layers.values())).a_RD.dtype == torch.float32
    found = logits(model, adapter)
    exact, same = loaded(llama, folder)
    assert distance(found, logits(exact, same)) < 0.05


def test_gguf_adapter_for_the_rotated_pairs_of_llama_cpp_is_the_same(llama, tmp_path):
    model, _ = load_model(llama)
    tensors = random_matrices(layers_of(model, "q_proj", "k_proj", "down_proj"), 9)
    folder = write_adapter(tmp_path / "peft", tensors)
    theirs = {"q_proj": "attn_q", "k_proj": "attn_k", "down_proj": "ffn_down"}
    heads = {"q_proj": 4, "k_proj": 2}
    writer = GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, values in tensors.items():
        _, _, _, _, layer, _, kind, half, _ = name.split(".")
        if half == "lora_B" and kind in heads:
            values = pairs_from_halves(values, heads[kind])
        array = np.ascontiguousarray(values.numpy())
        writer.add_tensor(f"blk.{layer}.{theirs[kind]}.weight.{half.lower()}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _, from_peft = loaded(llama, folder)
    model, from_gguf = loaded(llama, tmp_path / "adapter.gguf")
    assert from_gguf.digest == from_peft.digest
    assert torch.equal(logits(model, from_gguf), logits(model, from_peft))


def test_digest_tells_adapters_apart_by_their_values_alone(llama, tmp_path):
    model, _ = load_model(llama)
    folders = [tiny_adapter(tmp_path / name, model, seed) for name, seed in (("a", 1), ("b", 2))]
    tensors = random_matrices(layers_of(model), 1)
    folders += [
        write_adapter(tmp_path / "c", tensors, lora_dropout=0.5),
        write_adapter(tmp_path / "d", tensors, lora_alpha=9),
    ]
    a, b, c, d = (loaded(llama, folder)[1].digest for folder in folders)
    assert a == c and len({a, b, d}) == 3


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"something_new": 3}, "something_new"),
        ({"r": 8}, "rank"),
        ({"r": "4"}, "rank"),
        ({"rank_pattern": {"q_proj": 5}}, "rank"),
        ({"rank_pattern": {"(a+)+$": 5}}, "rank_pattern"),
        ({"rank_pattern": [4]}, "rank_pattern"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": [1]}, "target_modules"),
    ],
    ids=str,
)
def test_setting_that_is_not_computed_is_refused_by_its_name(llama, tmp_path, changes, word):
    model, _ = load_model(llama)
    folder = write_adapter(tmp_path, random_matrices(layers_of(model), 1), **changes)
    with pytest.raises(CheckpointError) as caught:
        read_peft(folder)
    assert word in str(caught.value)


def test_setting_that_is_off_or_of_the_training_is_passed_over(llama, tmp_path):
    model, _ = load_model(llama)
    off = {"layers_to_transform": [0, 1], "corda_config": None, "something_new": None, "x": {}}
    folder = write_adapter(tmp_path, random_matrices(layers_of(model), 1), **off)
    assert read_peft(folder).layers.keys() == layers_of(model).keys()


def _renamed(old: str, new: str):
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace(old, new): values for name, values in tensors.items()}

    return change


def _with(name: str, values: Tensor):
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | {name: values}

    return change


QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_renamed("layers.1.", "layers.2."), "layers.2."),
        (_renamed("self_attn.q_proj", "self_attn.qkv_proj"), "qkv_proj"),
        (_renamed("base_model.model.", "model."), "no matrix of a LoRA adapter"),
        (_with("base_model.model.lm_head.lora_A.weight", torch.zeros(4, 64)), "lm_head"),
        (_with("base_model.model.lm_head.weight", torch.zeros(96, 64)), "lm_head.weight"),
        (_with(QUERY + "magnitude_vector", torch.zeros(64)), "magnitude_vector"),
        (_with(QUERY + "B.bias", torch.zeros(64)), "B.bias"),
        (_with("base_model.model.x.q_proj.lora_A.weight", torch.zeros(4, 64)), "one is missing"),
        (_with(QUERY + "A.weight", torch.zeros(4, 60)), "[64, 60]"),
        (_with(QUERY + "B.weight", torch.zeros(60, 4)), "[60, 64]"),
        (_with(QUERY + "B.weight", torch.zeros(64, 3)), "can't be multiplied"),
        (_with(QUERY + "A.weight", torch.zeros(64)), "two axes"),
        (_with(QUERY + "A.weight", torch.zeros(4, 64, dtype=torch.int32)), "int32"),
        (_with(QUERY + "A.weight", torch.full((4, 64), math.nan)), "not finite"),
        (lambda tensors: {}, "holds no tensors"),
    ],
)
def test_tensor_that_does_not_fit_is_refused_by_its_name(llama, tmp_path, change, word):
    model, _ = load_model(llama)
    tensors = change(random_matrices(layers_of(model), 1))
    targets = [*settings_of()["target_modules"], "qkv_proj", "lm_head"]
    folder = write_adapter(tmp_path, tensors, target_modules=targets)
    with pytest.raises(CheckpointError) as caught:
        loaded(llama, folder)
    assert word in str(caught.value)


def test_experts_of_a_stack_are_refused_by_their_name(tmp_path):
    path = saved("mixtral", tmp_path / "model")
    name = "model.layers.0.block_sparse_moe.experts.0.w1"
    tensors = random_matrices({name: (96, 64)}, 1)
    folder = write_adapter(tmp_path / "adapter", tensors, target_modules=["w1"])
    with pytest.raises(CheckpointError, match=r"experts\.0\.w1"):
        loaded(path, folder)


def test_matrices_that_the_model_uses_in_another_way_are_refused(tmp_path):
    path = saved("deepseek_v3", tmp_path / "model")
    model, _ = load_model(path)
    module = model.get_submodule("model.layers.0.self_attn.kv_b_proj")
    layers = {"model.layers.0.self_attn.kv_b_proj": tuple(module.weight.shape)}
    folder = write_adapter(
        tmp_path / "adapter", random_matrices(layers, 1), target_modules=["kv_b_proj"]
    )
    with pytest.raises(CheckpointError, match="kv_b_proj"):
        loaded(path, folder)


def test_what_is_no_adapter_is_refused(llama, tmp_path):
    model, _ = load_model(llama)
    folder = tiny_adapter(tmp_path / "cut", model, 1)
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "bin" / "adapter_model.bin").write_bytes(b"PK\3\4")
    (tmp_path / "text").write_text("no adapter, and longer than the head of one")
    for path in (folder, tmp_path / "bin", tmp_path / "text", tmp_path / "gone", llama):
        with pytest.raises(BobotError):
            open_adapter(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.type", "model"),
        ("adapter.type", "dora"),
        ("adapter.lora.alpha", math.nan),
        ("adapter.lora.alpha", 8),
        ("adapter.alora.invocation_tokens", [1, 2]),
    ],
)
def test_gguf_that_is_no_plain_adapter_is_refused(tmp_path, monkeypatch, key, value):
    from bobot.checkpoints import lora_gguf

    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0}
    monkeypatch.setattr(lora_gguf, "read_gguf", lambda path: (metadata | {key: value}, {}))
    with pytest.raises(CheckpointError, match=key):
        read_lora_gguf(tmp_path)


def test_model_without_its_adapter_is_the_one_of_transformers(llama, tmp_path):
    model = bobot.load(llama, engine_config=SMALL)
    folder = tiny_adapter(tmp_path, model.model, 1)
    model = bobot.load(llama, adapters={"a": folder}, engine_config=SMALL)
    assert distance(model.logits(IDS), transformers_logits(llama, IDS)) < 1e-5
    with pytest.raises(BobotError, match="there are: a"):
        model.logits(IDS, adapter="b")
    ids = IDS.tolist()
    plain = [piece.ids for piece in model.generate(ids, max_tokens=8, temperature=0.0)]
    changed = [
        piece.ids for piece in model.generate(ids, max_tokens=8, temperature=0.0, adapter="a")
    ]
    model.adapter = "a"
    assert changed == [piece.ids for piece in model.generate(ids, max_tokens=8, temperature=0.0)]
    assert changed != plain
