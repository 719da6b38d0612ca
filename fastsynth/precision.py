"""Mixed precision of a training: half of the bits where the machine computes with them faster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from accelerate.state import AcceleratorState

Precision = Literal["no", "bf16", "fp16"]


def training_precision(device: str) -> Precision:
    """bf16 or fp16 on a GPU, whichever it has; on the CPU bf16 where it has matrix units for it (AMX); else none.

    What `accelerate launch --mixed_precision` says, or ACCELERATE_MIXED_PRECISION, takes precedence.
    With them a step of the compact UNet takes 0.6 of the time, with the same losses (`benchmarks/precision.py`);
    without, bf16 is converted to and fro, and slower.
    device: its type, as torch names it.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION")
    for precision in get_args(Precision):
        if asked == precision:
            return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell
        return "no"
    return "bf16" if torch.cpu.get_capabilities().get("amx_bf16") else "no"


@contextmanager
def own_precision() -> Iterator[None]:
    """Inside, the first Accelerator chooses the precision; outside, it is as it was before accelerate was asked.

    accelerate keeps the first one for the whole process: segmenters would be trained in that of a renderer.
    """
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state()
