"""What a training loop must remember besides weights and optimisers: how far it is and how long it took."""

import time


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
