"""Which of many fingerprints are close to a new one, without comparing it with all of them.

Multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast search in Hamming space with multi-index hashing"): cut the
bits into m bands. Two fingerprints that differ in at most d bits differ in at most rᵢ bits in some band i, whenever
Σ (rᵢ + 1) = d + 1: were it more in every band, the sum would exceed d. So it is enough to look, in a table per band,
at the entries within rᵢ bits of the query's band, and to compare those in full. Exact: what comes out is what
comparing with all of them gives.

With bands of log₂ n bits a table holds one entry per place, and n fingerprints need n (32 + 4 m) bytes and m tables.
"""

from functools import cache
from itertools import combinations, pairwise
from math import acos, log2, pi, sqrt

import numpy as np

from fastsynth.quality.gate_measures import BITS

BYTES = BITS // 8
MIN_INDEXED = 1024
"""Fewer fingerprints are compared one by one."""
UNINDEXED = 16
"""As many times √n new ones are compared one by one before the tables are made again."""


def max_bits(similarity: float) -> int:
    """In how many bits the fingerprints of two details may differ to be looked at as that much alike.

    At an angle φ each bit differs with probability p = φ/π: 256 p, and two standard deviations more. A pair right at
    the limit of the rule may be missed, one that is clearly alike is not.
    """
    p = acos(min(max(similarity, -1.0), 1.0)) / pi
    return int(BITS * p + 2 * sqrt(BITS * p * (1 - p)))


class Fingerprints:
    """Numbers of 256 bits with their ids; finds those that differ from another one in at most `max_bits` bits."""

    def __init__(self, *, max_bits: int) -> None:
        self.max_bits = max_bits
        self._ids = np.zeros(MIN_INDEXED, np.int64)
        self._marks = np.zeros((MIN_INDEXED, BYTES), np.uint8)
        self._count = 0
        self._tables: _Tables | None = None

    def add(self, number: int, fingerprint: int) -> None:
        if self._count == len(self._ids):
            self._ids, self._marks = (np.concatenate([old, np.zeros_like(old)]) for old in (self._ids, self._marks))
        self._ids[self._count] = number
        self._marks[self._count] = _bytes(fingerprint)
        self._count += 1
        indexed = 0 if self._tables is None else self._tables.count
        if self._count - indexed >= max(MIN_INDEXED, UNINDEXED * sqrt(self._count)):
            self._tables = _Tables(self._marks[: self._count], max_bits=self.max_bits)

    def near(self, fingerprint: int) -> np.ndarray:
        """Ids, ascending, of the fingerprints that are close."""
        query, tables = _bytes(fingerprint), self._tables
        if tables is None or tables.probes >= tables.count:  # then looking into the tables costs more than it saves
            close = self._close(np.arange(self._count), query)
        else:
            suspected = self._close(tables.candidates(fingerprint), query)
            close = np.concatenate([suspected, self._close(np.arange(tables.count, self._count), query)])
        return np.unique(self._ids[close])

    def _close(self, places: np.ndarray, query: np.ndarray) -> np.ndarray:
        differing = np.bitwise_count(self._marks[places].view(np.uint64) ^ query.view(np.uint64))
        return places[differing.sum(axis=1, dtype=np.int64) <= self.max_bits]


class _Tables:
    """One table per band over the first `count` fingerprints, one behind the other in memory.

    A key is a band's bits plus the place where its table begins. probes: keys that one query looks at.
    """

    def __init__(self, marks: np.ndarray, *, max_bits: int) -> None:
        self.count = len(marks)
        edges = np.linspace(0, BITS, round(BITS / log2(self.count)) + 1).round().astype(int).tolist()
        self._spans = list(pairwise(edges))
        widths = [stop - start for start, stop in self._spans]
        self._begins = np.cumsum([0, *(1 << width for width in widths)])
        most, rest = divmod(max_bits + 1, len(widths))
        # rᵢ + 1 is `most` or one more, and the sum of all is max_bits + 1; a radius below 0 looks at nothing
        balls = [_ball(width, most - 1 + (place < rest)) for place, width in enumerate(widths)]
        self._flips = np.concatenate(balls)
        self._band_of = np.repeat(np.arange(len(balls)), [len(ball) for ball in balls])
        self.probes = len(self._flips)
        # key → where its entries start in `order`, which holds the places of each table sorted by key
        self._starts = np.zeros(self._begins[-1] + 1, np.int64)
        self._order = np.zeros(len(widths) * self.count, np.int32)
        for number, (begin, end) in enumerate(pairwise(self._begins)):
            keys = _band(marks, *self._spans[number])
            first = number * self.count
            self._order[first : first + self.count] = np.argsort(keys, kind="stable")
            self._starts[begin + 1 : end + 1] = first + np.cumsum(np.bincount(keys, minlength=end - begin))

    def candidates(self, fingerprint: int) -> np.ndarray:
        """Places of all fingerprints that a table suspects, some of them several times."""
        bands = np.array([fingerprint >> (BITS - stop) & ((1 << (stop - start)) - 1) for start, stop in self._spans])
        keys = (bands[self._band_of] ^ self._flips) + self._begins[self._band_of]
        starts = self._starts[keys]
        lengths = self._starts[keys + 1] - starts
        # the ranges start … start + length, one after the other
        before = np.cumsum(lengths) - lengths
        return self._order[np.repeat(starts - before, lengths) + np.arange(lengths.sum())]


@cache
def _ball(bits: int, radius: int) -> np.ndarray:
    """All numbers of so many bits of which at most `radius` are 1."""
    found = [
        sum(1 << place for place in places) for ones in range(radius + 1) for places in combinations(range(bits), ones)
    ]
    return np.array(found, np.int64)


def _band(marks: np.ndarray, start: int, stop: int) -> np.ndarray:
    """(n,) int64: the bits start … stop of each of the marks (n, 32)."""
    first, last = start // 8, (stop + 7) // 8
    value = np.zeros(len(marks), np.int64)
    for column in range(first, last):
        value = value << 8 | marks[:, column]
    return value >> (8 * last - stop) & ((1 << (stop - start)) - 1)


def _bytes(fingerprint: int) -> np.ndarray:
    return np.frombuffer(fingerprint.to_bytes(BYTES, "big"), np.uint8)
