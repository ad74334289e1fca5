"""What `bobot fit` concludes: on machines and speeds that are made up, so that no time is measured
here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bobot.engine.kv_cache import bytes_per_token
from bobot.hardware import Hardware
from bobot.hub.names import aliases
from bobot.hub.published_settings import published_settings
from bobot.layers.context import AttentionSpec
from bobot.models.registry import family_of
from bobot.quant.weight import QuantWeight, Weight
from bobot.weights.fit import PROGRAM_BYTES, FitReport, estimate, streaming_s
from bobot.weights.forms import Form, other_forms
from bobot.weights.source import build_on_meta
from bobot.weights.speed import Speeds
from bobot.weights.subject import Subject, subject_of, subject_of_packed

GIB = 1 << 30
MACHINE = Hardware(
    cpu="made up",
    num_cores=8,
    features=(),
    ram_bytes=32 * GIB,
    ram_available_bytes=30 * GIB,
    disk_free_bytes=2000 * GIB,
    gpus=(),
    system="",
    python="",
)


class Times:
    """A machine that reads `bytes_per_s` of weights, packed ones `slower` times as slowly."""

    def __init__(self, bytes_per_s: float = 100e9, slower: float = 1.0) -> None:
        self.bytes_per_s, self.slower = bytes_per_s, slower
        self.rows: list[int] = []

    def product_s(self, sample: Weight, num_rows: int, dtype: torch.dtype) -> float:
        self.rows.append(num_rows)
        factor = self.slower if isinstance(sample, QuantWeight) else 1.0
        return factor * sample.nbytes / sample.numel() / self.bytes_per_s

    def call_s(self, sample: Weight, dtype: torch.dtype) -> float:
        return 0.0

    def attention_s(self, spec: AttentionSpec, queries: int, keys: int, *rest: Any) -> float:
        return 0.0

    def activation_s(self, dtype: torch.dtype) -> float:
        return 0.0

    def small_step_s(self) -> float:
        return 0.0


def of_alias(name: str) -> Subject:
    settings = published_settings(aliases()[name])
    assert settings is not None
    return subject_of_packed(settings)


def report(name: str, machine: Hardware = MACHINE, **speeds: float) -> FitReport:
    return estimate(of_alias(name), machine, Times(**speeds))


def test_memory_is_weights_and_cache_and_work(shared: Path) -> None:
    subject = subject_of(shared / "parity/llama3/hf")
    form = estimate(subject, MACHINE, Times(), context=100).published
    model: Any = subject.model
    assert form.kv_bytes == 100 * bytes_per_token(model.kv_specs(), torch.bfloat16)
    assert form.memory_bytes == form.weight_bytes + form.kv_bytes + form.working_bytes
    assert form.working_bytes > PROGRAM_BYTES


def test_context_is_the_models_but_at_most_8192() -> None:
    assert report("llama2:7b").context == 4096
    assert report("llama3.1:8b").context == 8192
    assert estimate(of_alias("llama3.1:8b"), MACHINE, Times(), context=20).context == 20


def test_a_latent_cache_is_counted_once() -> None:
    assert report("kimi-k2").kv_bytes_per_1024_tokens == 1024 * 61 * 576 * 2


def test_a_token_reads_its_experts_and_no_embedding() -> None:
    found = report("mixtral:8x7b")
    assert (found.num_experts, found.num_active_experts) == (8, 2)
    assert found.num_active_parameters == pytest.approx(12.88e9, rel=1e-3)
    embedding = 32000 * 4096 * 2
    cache = 8192 * 32 * 8 * 128 * 2 * 2
    expected = 2 * found.num_active_parameters - embedding + cache
    assert found.published.bytes_per_token == pytest.approx(expected, rel=1e-4)


def test_a_window_limits_what_is_read_and_not_what_is_kept() -> None:
    wide, narrow = report("mistral:7b-v0.2").published, report("mistral:7b-v0.1").published
    assert wide.kv_bytes == narrow.kv_bytes
    assert wide.bytes_per_token - narrow.bytes_per_token == wide.kv_bytes // 2


def test_decode_speed_is_the_bytes_of_a_token_by_the_bandwidth() -> None:
    found = report("llama3.2:3b", bytes_per_s=60e9).published
    weights = found.bytes_per_token - found.kv_bytes
    assert found.decode_tokens_per_s == pytest.approx(60e9 / weights, rel=1e-3)


def test_an_expert_meets_the_rows_that_choose_it() -> None:
    times = Times()
    estimate(of_alias("gpt-oss:20b"), MACHINE, times, only_published=True)
    assert set(times.rows) == {1, 512, 64}  # 512 tokens, 4 of 32 experts


def test_the_published_form_is_taken_where_it_runs_well() -> None:
    found = report("llama3.1:8b")
    assert (found.choice, found.verdict) == ("as published", "fits")


def test_a_narrower_form_is_taken_where_memory_is_short() -> None:
    small = replace(MACHINE, ram_bytes=12 * GIB, ram_available_bytes=11 * GIB)
    found = report("llama3.1:8b", small)
    assert found.published.verdict == "won't fit"
    assert found.published.decode_tokens_per_s is None
    assert (found.choice, found.verdict) == ("int8", "fits")


def test_a_narrower_form_is_taken_where_the_published_one_is_slow() -> None:
    found = report("llama3.1:8b", bytes_per_s=50e9)
    assert found.published.verdict == "may be slow"
    assert (found.choice, found.verdict) == ("int8", "fits")


def test_a_slow_form_is_not_taken_for_a_slower_one() -> None:
    found = report("llama3.1:8b", bytes_per_s=20e9, slower=10.0)
    assert (found.choice, found.verdict) == ("as published", "may be slow")


def test_memory_that_other_programs_hold_makes_it_slow_not_impossible() -> None:
    busy = replace(MACHINE, ram_available_bytes=2 * GIB)
    assert report("llama3.1:8b", busy).published.verdict == "may be slow"


@pytest.mark.parametrize("name", ["llama3.1:405b", "grok-1", "kimi-k2", "deepseek-v3"])
def test_what_is_too_large_is_refused_in_every_form(name: str) -> None:
    found = report(name)
    assert (found.choice, found.verdict) == (None, "won't fit")
    assert {form.verdict for form in found.forms} == {"won't fit"}
    assert all(form.decode_tokens_per_s is None for form in found.forms)


def test_a_disk_without_room_is_a_reason() -> None:
    full = replace(MACHINE, disk_free_bytes=GIB)
    assert report("llama3.1:8b", full).verdict == "won't fit"


def test_streaming_reads_what_memory_lacks() -> None:
    form = report("llama3.1:405b").published
    half = streaming_s(form, form.memory_bytes // 2, disk_bytes_per_s=1e9)
    assert half == pytest.approx(form.bytes_per_token / 2e9, rel=1e-6)
    assert streaming_s(form, 2 * form.memory_bytes, 1e9) == 0


def test_speeds_time_every_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bobot.weights.speed.SCRATCH_BYTES", 1 << 21)
    monkeypatch.setattr("bobot.weights.speed.SHORT_S", 1e-6)
    speeds = Speeds()
    for form in small_forms():
        for stored in form.weights:
            if len(stored.part.shape) > 1:
                for rows in (1, 40):
                    assert speeds.product_s(stored.sample, rows, form.dtype) > 0, stored.storage
                assert speeds.call_s(stored.sample, form.dtype) >= 0


def small_forms() -> list[Form]:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
    }  # fmt: skip
    source: Any = SimpleNamespace(config=config, tensors={}, num_shards=1)
    family = family_of(source, "hf")
    model = build_on_meta(family, family.dialects["hf"].config(source))
    return other_forms(model, family)
