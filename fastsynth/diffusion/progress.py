"""What a training loop must remember besides weights and optimisers, and checkpoints that are whole or not there."""

import shutil
import time
from pathlib import Path

from accelerate import Accelerator


class Progress:
    """Registered for checkpointing with accelerate, so that a resumed run goes on counting."""

    def __init__(self) -> None:
        self.step = 0
        self._seconds = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training over all sittings."""
        return self._seconds + time.monotonic() - self._started

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self._seconds = int(state["step"]), float(state["seconds"])
        self._started = time.monotonic()


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
