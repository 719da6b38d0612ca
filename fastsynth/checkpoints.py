"""Checkpoints of a training loop: each appears only when it is whole, and replaces the one before."""

import shutil
from pathlib import Path

from accelerate import Accelerator


def save_checkpoint(accelerator: Accelerator, output: Path, *, step: int) -> None:
    """Replace the checkpoints below `output` by checkpoints/checkpoint-<step>, which appears only when it is whole."""
    older = _checkpoints(output)
    unfinished = output / "checkpoints" / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.save_state(str(unfinished))
    unfinished.rename(output / "checkpoints" / f"checkpoint-{step}")
    for path in older:
        shutil.rmtree(path)


def load_checkpoint(accelerator: Accelerator, output: Path) -> None:
    """Continue from the last checkpoint below `output`; without one everything stays as it is."""
    for path in _checkpoints(output)[-1:]:
        accelerator.load_state(str(path))


def _checkpoints(output: Path) -> list[Path]:
    """Oldest first."""
    found = (output / "checkpoints").glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))
