"""The tables find what comparing with every fingerprint finds, and look at few of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.quality.fingerprints import MIN_INDEXED, Fingerprints, max_bits
from fastsynth.quality.gate_measures import BITS


def flipped(mark: int, bits: int, rng: np.random.Generator) -> int:
    return mark ^ sum(1 << int(place) for place in rng.permutation(BITS)[:bits])


def random_mark(rng: np.random.Generator) -> int:
    return int.from_bytes(rng.bytes(BITS // 8), "big")


def scan(marks: list[int], query: int, *, limit: int) -> list[int]:
    return [number for number, mark in enumerate(marks) if (mark ^ query).bit_count() <= limit]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 3 * MIN_INDEXED), limit=st.one_of(st.just(47), st.integers(0, 80))
)
def test_the_tables_answer_as_a_scan_does(seed, count, limit):
    """Random ones and groups of neighbours, some exactly as far as allowed and some one bit farther."""
    rng = np.random.default_rng(seed)
    centres = [random_mark(rng) for _ in range(6)]
    index, marks = Fingerprints(max_bits=limit), []
    for number in range(count):
        distance = int(rng.choice([0, 1, limit - 1, limit, limit + 1, limit + 2]).clip(0, BITS))
        near_a_centre = rng.random() < 0.1
        marks.append(flipped(centres[number % 6], distance, rng) if near_a_centre else random_mark(rng))
        index.add(number, marks[-1])
    for query in [*centres, marks[-1], marks[0], random_mark(rng)]:
        assert index.near(query).tolist() == scan(marks, query, limit=limit)


def test_a_neighbour_whose_bits_differ_evenly_is_found():
    """The worst case of any number of bands: every band differs, none by fewer bits than it has to."""
    rng, limit = np.random.default_rng(0), 40
    marks = [random_mark(rng) for _ in range(4 * MIN_INDEXED)]
    index = Fingerprints(max_bits=limit)
    for number, mark in enumerate(marks):
        index.add(number, mark)
    assert index._tables is not None
    assert index._tables.probes < index._tables.count  # the tables are asked
    for bands in range(1, 65):
        edges = np.linspace(0, BITS, bands + 1).round().astype(int)
        for number in range(4):
            query = marks[number]
            for band in range(bands):
                differing = limit // bands + (band < limit % bands)
                for place in rng.permutation(np.arange(edges[band], edges[band + 1]))[:differing]:
                    query ^= 1 << (BITS - 1 - int(place))
            assert (query ^ marks[number]).bit_count() == limit
            assert number in index.near(query)


def test_crowded_bands_are_searched_too():
    """Fingerprints that agree in most bands: every table has the same few long entries."""
    rng = np.random.default_rng(0)
    centre, index = random_mark(rng), Fingerprints(max_bits=20)
    marks = [flipped(centre, int(rng.integers(0, 30)), rng) for _ in range(2 * MIN_INDEXED)]
    for number, mark in enumerate(marks):
        index.add(number, mark)
    assert index.near(centre).tolist() == scan(marks, centre, limit=20)


def test_ids_need_no_order_and_come_out_ascending():
    index = Fingerprints(max_bits=3)
    for number in (9, 2, 5):
        index.add(number, 7)
    found = index.near(6)
    assert (found.tolist(), found.dtype) == ([2, 5, 9], np.int64)
    assert Fingerprints(max_bits=3).near(0).tolist() == []


def test_of_a_hundred_thousand_random_ones_few_are_compared():
    rng = np.random.default_rng(0)
    index = Fingerprints(max_bits=max_bits(0.9))
    for number in range(100_000):
        index.add(number, random_mark(rng))
    assert index._tables is not None
    compared = [len(index._tables.candidates(random_mark(rng))) for _ in range(20)]
    assert index._tables.count > 90_000
    assert max(compared) < 4_000


@pytest.mark.parametrize(
    ("similarity", "most"), [(1.0, 0), (0.9, 47), (0.8, 65), (0.0, 144), (1 + 1e-7, 0), (-1 - 1e-7, 256)]
)
def test_the_limit_is_two_standard_deviations_above_what_the_angle_says(similarity, most):
    assert max_bits(similarity) == most
