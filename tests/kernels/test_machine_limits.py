"""The measured limits of this machine: that they are there, plausible, and asked for rightly.

No absolute speed is asserted: another program may hold the processor meanwhile.
"""

from __future__ import annotations

import pytest

from bobot import kernels
from bobot.errors import NotFoundError
from bobot.kernels import _native, limits
from bobot.kernels.limits import Limits, measure

if not kernels.available:
    pytest.skip("the extension is not built", allow_module_level=True)


@pytest.fixture(scope="module")
def found() -> Limits:
    return measure(1, free_bytes=0)


def test_every_instruction_set_with_kernels_has_a_limit(found: Limits) -> None:
    usable = {name for name, is_usable in kernels.features().items() if is_usable}
    measured = {name.split("_")[0] for name in found.operations_per_s}
    assert usable <= measured, f"kernels of {sorted(usable)}, limits of {sorted(measured)}"


def test_limits_are_positive_and_a_wide_register_beats_a_narrow_one(found: Limits) -> None:
    assert found.memory_bytes_per_s > 0
    if "avx512_float32" not in found.operations_per_s:
        pytest.skip("no registers four times as wide as the narrow ones")
    for _ in range(5):  # on a busy machine one of the two may have got no time
        rates = found.operations_per_s
        assert all(rate > 0 for rate in rates.values()), rates
        if rates["avx512_float32"] > rates["portable_float32"]:
            return
        found = found.larger(measure(1, free_bytes=0))
    pytest.fail(f"not faster: {found.operations_per_s}")


def test_each_step_is_told() -> None:
    told: list[tuple[int, int]] = []
    measure(1, free_bytes=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, len(told)) for i in range(len(told))]
    assert len(told) == len(_native.operations()) + 1


def test_little_free_memory_is_measured_with_little(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Native:
        @staticmethod
        def operations() -> list[str]:
            return []

        @staticmethod
        def read_bytes_per_s(num_bytes: int, num_threads: int) -> float:
            asked.append(num_bytes)
            return 1.0

    monkeypatch.setattr(kernels, "_native", Native)
    for free_bytes in (64 << 30, 1 << 30, 0):
        measure(4, free_bytes)
    assert asked == [1 << 30, 256 << 20, 4 * limits.LEAST_BYTES_PER_THREAD]


def test_the_larger_of_two_measurements_counts() -> None:
    first = Limits(2, 40e9, {"amx_int8": 9e12, "amx_bf16": 3e12})
    second = Limits(2, 30e9, {"amx_int8": 1e12, "amx_bf16": 4e12})
    assert first.larger(second) == Limits(2, 40e9, {"amx_int8": 9e12, "amx_bf16": 4e12})


def test_what_rounds_to_8_bits_is_no_limit_of_unrounded_activations() -> None:
    rates = {"avx512vnni_int8": 2e12, "avx512vnni_int16": 1e12, "avx2_float32": 0.2e12}
    found = Limits(2, 1.0, rates)
    assert found.precise_operations_per_s == 1e12
    assert found.float_operations_per_s == 0.2e12


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: _native.read_bytes_per_s(1 << 30, 0), "num_threads is below 1"),
        (lambda: _native.read_bytes_per_s(1 << 20, 1), "4 MiB for each thread"),
        (lambda: _native.operations_per_s("portable_float32", -1), "num_threads is below 1"),
        (lambda: _native.operations_per_s("sse9_int3", 1), "no operation sse9_int3"),
    ],
)
def test_what_can_not_be_measured_is_refused(call, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        call()


def test_without_the_extension_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_native", None)
    with pytest.raises(NotFoundError, match="make chat"):
        measure(1, 0)
