"""What a step has to read and compute at least, against sums done by hand or by counting what torch
does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bobot.hub.names import aliases
from bobot.hub.published_settings import published_settings
from bobot.layers.context import PackedAttention
from bobot.weights.load import load_model
from bobot.weights.subject import Subject, subject_of, subject_of_packed
from bobot.weights.work import Work, step_work


def of_alias(name: str) -> Subject:
    settings = published_settings(aliases()[name])
    assert settings is not None
    return subject_of_packed(settings)


def work(subject: Subject, **batch: int) -> Work:
    model: Any = subject.model
    active = getattr(subject.config, "num_experts_per_tok", 0)
    return step_work(subject.published, model.kv_specs(), active, **batch)


def test_a_token_of_llama_3_reads_its_matrices_and_the_cache() -> None:
    found = work(of_alias("llama3.1:8b"), depth=999)
    matrices = 32 * (4096 * (4096 + 1024 + 1024) + 4096 * 4096 + 3 * 4096 * 14336) + 128256 * 4096
    norms = 65 * 4096
    cache = 1000 * 32 * 8 * 128 * 2 * 2
    assert found.num_bytes == 2 * (matrices + norms) + cache
    assert found.num_operations == 2 * matrices + 32 * 2 * 32 * (128 + 128) * 1000


def test_the_output_is_computed_once_for_a_prompt() -> None:
    subject = of_alias("llama3.1:8b")
    one, many = work(subject), work(subject, num_new=512)
    head = 2 * 128256 * 4096
    scores = 32 * 2 * 32 * 256
    layers = one.num_operations - head - scores
    assert many.num_operations == 512 * layers + head + scores * (512 * 513 // 2)
    assert many.num_bytes - one.num_bytes == 511 * 32 * 8 * 128 * 2 * 2


def test_operations_are_those_that_torch_counts(shared: Path) -> None:
    path = shared / "parity/llama3_short/hf"
    subject = subject_of(path)
    model, _ = load_model(path, dtype="float32")
    num_tokens = 24
    model.requires_grad_(True)  # then torch computes everything, and can count it
    plain = sdpa_kernel(SDPBackend.MATH)  # the fused attention of the CPU is not counted
    with plain, FlopCounterMode(display=False) as counter:
        hidden = model(torch.arange(num_tokens), torch.arange(num_tokens), PackedAttention())
        model.logits(hidden[-1:])
    found = work(subject, num_new=num_tokens).num_operations
    specs: Any = subject.model
    per_key = sum(2 * s.num_heads * (s.head_dim + s.v_head_dim) for s in specs.kv_specs())
    masked = per_key * (num_tokens * num_tokens - num_tokens * (num_tokens + 1) // 2)
    assert found == counter.get_total_flops() - masked, (found, counter.get_total_flops(), masked)


def test_more_rows_wake_more_experts_and_none_twice() -> None:
    subject = of_alias("mixtral:8x7b")
    one, eight, many = (work(subject, num_rows=n) for n in (1, 8, 10000))
    experts = 2 * 32 * 8 * 3 * 4096 * 14336
    cache = 32 * 8 * 128 * 2 * 2
    rest = one.num_bytes - experts * 2 / 8 - cache
    assert eight.num_bytes == pytest.approx(rest + experts * (1 - 0.75**8) + 8 * cache)
    assert many.num_bytes == pytest.approx(rest + experts + 10000 * cache)
    assert eight.num_operations == pytest.approx(8 * one.num_operations)


def test_a_window_ends_what_is_read_and_computed() -> None:
    subject = of_alias("mistral:7b-v0.1")
    assert work(subject, depth=4095) == work(subject, depth=20000)
    assert work(subject, depth=4094).num_bytes < work(subject, depth=4095).num_bytes


def test_the_slower_of_reading_and_computing_takes_the_time() -> None:
    assert Work(100.0, 10.0).least_s(50.0, 10.0) == 2.0
    assert Work(100.0, 30.0).least_s(50.0, 10.0) == 3.0
