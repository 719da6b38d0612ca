"""A hybrid keeps the laws of all renderers; its parts draw what they would draw alone, in shares by weight."""

import numpy as np
import pytest
from renderer_laws import RendererLaws, bank, layout_of
from scipy.stats import chisquare

from fastsynth.types import Layout, Renderer, sample_seed
from generators.hybrid import HybridRenderer
from generators.reference import ReferenceRenderer, copy_paste, cutpaste, draem

PARTS = {
    "pasted": (2.0, ReferenceRenderer("copy_paste", copy_paste(bank(), blend="light"), context=2.0)),
    "elsewhere": (1.0, ReferenceRenderer("cutpaste", cutpaste(jitter=0.1), context=3.0)),
}
SEEDS = [sample_seed(7, sample_id) for sample_id in range(1000)]


class TestHybrid(RendererLaws):
    @pytest.fixture
    def renderer(self) -> Renderer:
        return HybridRenderer(PARTS)

    def test_size_depth_mask_and_class_are_those_of_the_layout(self, renderer: Renderer, layout: Layout):
        """And the sample names its part and that part's kind, not the hybrid."""
        for sample in renderer.render([layout] * 8, range(8)):
            assert (sample.image.shape, sample.image.dtype) == (layout.background.shape, layout.background.dtype)
            np.testing.assert_array_equal(sample.mask, np.where(layout.foreground, 255, 0))
            assert sample.layout is layout
            assert sample.renderer == PARTS[sample.notes["part"]][1].name

    def test_every_part_draws_what_it_draws_alone_whatever_is_drawn_beside_it(self, layout: Layout):
        mixed = HybridRenderer(PARTS).render([layout] * 12, SEEDS[:12])
        assert {sample.notes["part"] for sample in mixed} == set(PARTS)
        for sample, seed in zip(mixed, SEEDS, strict=False):
            (alone,) = PARTS[sample.notes["part"]][1].render([layout], [seed])
            np.testing.assert_array_equal(sample.image, alone.image)
            assert sample.seed == seed


@pytest.mark.parametrize("weights", [{"a": 2, "b": 1}, {"a": 0.1, "b": 0.1}, {"a": 1, "b": 5, "c": 10}])
def test_shares_are_the_weights(weights):
    hybrid = HybridRenderer({name: (weight, PARTS["pasted"][1]) for name, weight in weights.items()})
    drawn = [hybrid.part_of(seed) for seed in SEEDS]
    expected = [len(SEEDS) * weight / sum(weights.values()) for weight in weights.values()]
    assert chisquare([drawn.count(name) for name in weights], expected).pvalue > 0.01


def test_neighbours_are_independent():
    """Defect types take turns by id, so a rhythm in the parts would give one type to one part."""
    hybrid = HybridRenderer({name: (1.0, renderer) for name, (_, renderer) in PARTS.items()})
    drawn = [hybrid.part_of(seed) for seed in SEEDS]
    for turns in (2, 3, 5):
        counts = [drawn[start::turns].count("pasted") / len(drawn[start::turns]) for start in range(turns)]
        assert np.ptp(counts) < 5 * np.sqrt(0.25 * turns / len(drawn))


def test_neither_the_order_of_the_parts_nor_the_scale_of_the_weights_matters():
    hybrid = HybridRenderer(PARTS)
    turned = HybridRenderer({name: (8 * weight, part) for name, (weight, part) in reversed(PARTS.items())})
    assert [hybrid.part_of(seed) for seed in SEEDS] == [turned.part_of(seed) for seed in SEEDS]


def test_a_sample_drawn_again_can_keep_its_part():
    layout = layout_of(np.full((40, 40, 1), 100, np.uint8), ("dent", 5, 5, 20, 10))
    hybrid = HybridRenderer(
        {**PARTS, "foreign": (3.0, ReferenceRenderer("draem", draem(opacity=(0.2, 0.9)), context=2))}
    )
    first = hybrid.render([layout] * 20, SEEDS[:20])
    again = hybrid.render([layout] * 20, SEEDS[20:40], chosen_by=SEEDS[:20])
    assert [one.notes for one in again] == [one.notes for one in first]
    assert [one.seed for one in again] == SEEDS[20:40]
    assert [one.notes for one in hybrid.render([layout] * 20, SEEDS[20:40])] != [one.notes for one in first]
