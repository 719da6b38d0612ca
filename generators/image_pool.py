"""Earlier renders for the discriminator (Shrivastava et al. 2017, arXiv 1612.07828; pix2pixHD keeps pairs of them)."""

from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Keeps `size` past renders, each with its layout, and hands some of them out instead of new ones.

    size: 0 hands out what comes in. generator: decides which; its state is part of `state_dict`.
    """

    def __init__(self, size: int, *, generator: torch.Generator) -> None:
        self.size = size
        self.kept: list[Tensor] = []
        self.generator = generator

    def exchange(self, pairs: Tensor) -> Tensor:
        """As many pairs as came in. While the pool fills, they are those that came in; after that each is, by a coin,
        itself or one from the pool, whose place it takes.

        pairs: (B, C, H, W), layout planes and render together, detached.
        """
        if self.size == 0:
            return pairs
        return torch.stack([self._exchange(pair) for pair in pairs])

    def state_dict(self) -> dict[str, Any]:
        return {"kept": list(self.kept), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = list(state["kept"])
        self.generator.set_state(state["generator"])

    def _exchange(self, pair: Tensor) -> Tensor:
        if len(self.kept) < self.size:
            self.kept.append(pair.clone())
            return pair
        if torch.rand((), generator=self.generator) < 0.5:
            return pair
        place = int(torch.randint(self.size, (), generator=self.generator))
        earlier, self.kept[place] = self.kept[place], pair.clone()
        return earlier
