"""What CRN is trained for: the best of its outputs looks like the photo, class by class (arXiv 1707.09405)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.batches import Batch
from generators.crn import CRN
from generators.encoding import encode_layout, one_hot
from generators.layout_warp import Warp, bend
from generators.loop import LOG_EVERY, Task
from generators.losses import ClassNorm, LayerWeights, diversity_loss, win_shares
from generators.perceptual import PerceptualTrunk

FORGETTING = 0.99
"""What a step leaves of the wins before it, for `WinCounts.lasting_shares`."""


class CRNTask(Task):
    """Perceptual regression without an adversary.

    steps: of the stage. diversity_mean_weight: at its first and its last step, geometrically between them: many outputs
    start to learn while it is large, and become different when it is small. class_norm: see `diversity_loss`.
    ignore: class id of pixels without one. warp: how layouts of whole pictures are bent.
    """

    betas = (0.9, 0.999)

    def __init__(
        self,
        network: CRN,
        trunk: PerceptualTrunk,
        weights: LayerWeights,
        *,
        calibration_steps: int,
        steps: int,
        learning_rate: float,
        diversity_mean_weight: tuple[float, float],
        class_norm: ClassNorm,
        ignore: int | None,
        warp: Warp,
    ) -> None:
        super().__init__(trunk, weights, calibration_steps=calibration_steps)
        self.players: list[nn.Module] = [network]
        self.rates = (learning_rate,)
        self.num_classes, self.edges = int(network.config["num_classes"]), bool(network.config["edges"])
        self.steps, self.mean_weight, self.class_norm, self.ignore = steps, diversity_mean_weight, class_norm, ignore
        self.warp = warp
        self.wins = WinCounts(int(network.config["num_outputs"]), self.num_classes)
        self.states.append(self.wins)

    def losses(self, batch: Batch, *, step: int, generator: torch.Generator) -> Iterator[Tensor]:
        seen = bend(batch, self.warp, generator=generator)
        drawn = batch.composite(self.players[0](self._layout(seen)))
        with torch.no_grad():
            target = self.trunk(batch.image)
        features = self.trunk(drawn)
        self.calibrate(features, [t[:, None].expand_as(f) for t, f in zip(target, features, strict=True)], step=step)
        found = diversity_loss(
            features,
            target,
            one_hot(batch.labels, num_classes=self.num_classes, ignore=self.ignore),
            weights=self.weights.weights,
            mean_weight=self._mean_weight(step),
            class_norm=self.class_norm,
        )
        self.wins.add(found.wins, step=step)
        with torch.no_grad():
            self.shown = {"loss": found.loss.detach(), "l1": F.l1_loss(drawn[:, 0], batch.image)}
        yield found.loss

    def samples(self, batch: Batch) -> list[Tensor]:
        """One picture per output."""
        return list(batch.composite(self.players[0](self._layout(batch))).unbind(1))

    def numbers(self) -> dict[str, Any]:
        return {**super().numbers(), "wins": self.wins.shares(), "lambda": self.weights.weights.tolist()}

    def _mean_weight(self, step: int) -> float:
        first, last = self.mean_weight
        return float(first * (last / first) ** (step / max(self.steps - 1, 1)))

    def _layout(self, batch: Batch) -> Tensor:
        return encode_layout(
            batch.labels,
            batch.instances if self.edges else None,
            num_classes=self.num_classes,
            context=batch.context,
            ignore=self.ignore,
        )


class WinCounts:
    """How often each output was the best one for each class: since the last line of the log, and lately."""

    def __init__(self, num_outputs: int, num_classes: int) -> None:
        self.counts, self.line = torch.zeros(num_outputs, num_classes), 0
        self.lately = torch.zeros(num_outputs, num_classes)

    def add(self, wins: Tensor, *, step: int) -> None:
        """wins: (k, N) of a step; the counts begin anew after each line."""
        if step // LOG_EVERY != self.line:
            self.line = step // LOG_EVERY
            self.counts.zero_()
        self.counts += wins.cpu()
        self.lately = FORGETTING * self.lately + wins.cpu()

    def shares(self) -> list[list[float | None]]:
        """k lists of N shares, rounded; None for a class that was not there."""
        return [[None if v != v else round(v, 3) for v in row] for row in win_shares(self.counts).tolist()]

    def lasting_shares(self) -> list[list[float]]:
        """k lists of N shares of the last few hundred steps, which sum to 1 per class; equal ones if it was not there.

        A loss that asks for the best of k outputs leaves the others wherever they are: one that never wins a class
        has never learnt it.
        """
        shares = win_shares(self.lately)
        return torch.where(shares.isnan(), 1 / len(shares), shares).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "line": self.line, "lately": self.lately}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts, self.line, self.lately = state["counts"].clone(), int(state["line"]), state["lately"].clone()
