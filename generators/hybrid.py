"""A mix of renderers: every sample is drawn by one part of it, and parts take shares by weight."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from fastsynth.types import Layout, Renderer, Sample

PART = "part"
"""Key of a sample's notes: the name of the part that drew it."""
STREAM = 0x6D6978
"""Keeps the choice of a part apart from the seeds of the looks, which start from the same number."""


class HybridRenderer:
    """Draws each sample with the part that its seed chooses; which others are drawn with it does not matter.

    parts: name → weight above 0 and renderer. A part's share of the samples is its weight over the sum of all; the
    order of the parts does not matter. A sample bears its part's own `renderer`, and the part's name in its notes.
    """

    name = "hybrid"

    def __init__(self, parts: Mapping[str, tuple[float, Renderer]]) -> None:
        self.parts = {name: renderer for name, (_, renderer) in sorted(parts.items())}
        self._limits = list(accumulate(weight for _, (weight, _) in sorted(parts.items())))

    def part_of(self, seed: int) -> str:
        """The name of the part that draws what `seed` chooses."""
        place = np.random.default_rng((seed, STREAM)).random() * self._limits[-1]
        return list(self.parts)[bisect_right(self._limits[:-1], place)]

    def render(
        self, layouts: Sequence[Layout], seeds: Sequence[int], *, chosen_by: Sequence[int] | None = None
    ) -> list[Sample]:
        """One sample per layout, each what its part alone would draw from the same seed.

        chosen_by: one seed per layout by which its part is chosen; None: `seeds`.
        """
        names = [self.part_of(seed) for seed in (seeds if chosen_by is None else chosen_by)]
        drawn: dict[int, Sample] = {}
        for name, renderer in self.parts.items():
            places = [place for place, chosen in enumerate(names) if chosen == name]
            samples = renderer.render([layouts[place] for place in places], [seeds[place] for place in places])
            for place, sample in zip(places, samples, strict=True):
                drawn[place] = replace(sample, notes={**sample.notes, PART: name})
        return [drawn[place] for place in range(len(layouts))]
