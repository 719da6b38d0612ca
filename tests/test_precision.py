"""The precision of a training is what the machine is fast at, and ends with it."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from fastsynth.precision import own_precision, training_precision

CPU_FLAGS = Path("/proc/cpuinfo")
ASKED = "ACCELERATE_MIXED_PRECISION"


@pytest.fixture(autouse=True)
def _unasked(monkeypatch):
    """All other tests ask for full precision, to be the same on every machine."""
    monkeypatch.delenv(ASKED)


@pytest.mark.parametrize("asked", ["no", "bf16", "fp16"])
def test_what_is_asked_for_is_done(monkeypatch, asked):
    monkeypatch.setenv(ASKED, asked)
    assert training_precision("cpu") == asked


@pytest.mark.skipif(not CPU_FLAGS.is_file(), reason="needs /proc/cpuinfo, to know what the processor has")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="this torch cannot tell what the processor has")
def test_a_cpu_trains_in_half_precision_where_it_has_the_units():
    has_units = "amx_bf16" in CPU_FLAGS.read_text().split()
    assert training_precision("cpu") == ("bf16" if has_units else "no")


def test_a_processor_without_them_and_an_older_torch_train_in_full(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert training_precision("cpu") == "no"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert training_precision("cpu") == "no"
    assert training_precision("mps") == "no"


@own_precision()
def interrupted_training():
    Accelerator(cpu=True, mixed_precision="bf16")
    raise KeyboardInterrupt


def test_a_precision_ends_with_its_training_also_one_that_fails():
    with own_precision():
        assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    assert Accelerator(cpu=True).mixed_precision == "no"
    with pytest.raises(KeyboardInterrupt):
        interrupted_training()
    assert Accelerator(cpu=True).mixed_precision == "no"
