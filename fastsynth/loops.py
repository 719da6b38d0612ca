"""What every training loop shares: how far it is and how long it took, and a look through its averaged weights."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import nn


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


@contextmanager
def averaged(parameters: Sequence[nn.Parameter], ema: EMAModel) -> Iterator[None]:
    """Inside the block `parameters`, those that `ema` averages, have their averages as values."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
