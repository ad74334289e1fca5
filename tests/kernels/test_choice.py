"""Which instruction set is chosen, and what a machine without the extension is told."""

import pytest

from bobot import kernels
from bobot.errors import NotFoundError, UsageError

needs_extension = pytest.mark.skipif(not kernels.available, reason="the extension is not built")


@needs_extension
def test_the_fastest_instruction_set_is_chosen(monkeypatch):
    monkeypatch.delenv("BOBOT_ISA", raising=False)
    fastest = next(name for name, usable in kernels.features().items() if usable)
    assert kernels.isa() == fastest


@needs_extension
def test_the_environment_can_force_a_slower_one(monkeypatch):
    monkeypatch.setenv("BOBOT_ISA", "portable")
    assert kernels.isa() == "portable"


@needs_extension
@pytest.mark.parametrize("asked", ["sse9", "", "AVX2"])
def test_an_unknown_instruction_set_names_the_known_ones(monkeypatch, asked):
    monkeypatch.setenv("BOBOT_ISA", asked)
    with pytest.raises(UsageError, match=f"BOBOT_ISA is '{asked}'.*portable"):
        kernels.isa()


@needs_extension
def test_an_instruction_set_that_the_machine_lacks_is_refused(monkeypatch):
    only_portable = {"avx512vnni": False, "avx2": False, "portable": True}
    monkeypatch.setattr(kernels, "features", lambda: only_portable)
    monkeypatch.setenv("BOBOT_ISA", "avx2")
    with pytest.raises(UsageError, match="can run portable"):
        kernels.isa()


def test_without_the_extension_the_next_step_is_told(monkeypatch):
    monkeypatch.setattr(kernels, "_native", None)
    with pytest.raises(NotFoundError, match="make chat"):
        kernels.features()
