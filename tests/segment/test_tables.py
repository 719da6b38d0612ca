"""Rows of a table against one another, on test sets whose true effect is known by construction."""

import numpy as np

from segment.compare import Arm, results, verdict
from segment.metrics import BINS, ImageScore, Scores
from segment.tables import against_rows, best_reference

PIXELS = 1_000_000


def arms(row: str | None, recall: float, *, ratio: float = 1.0) -> list[Arm]:
    """Three segmenters that find the share `recall` of every defect, give or take what makes an image hard."""
    found = []
    for seed in range(3):
        images = []
        for number in range(8):
            hit = round(PIXELS * (recall + 0.01 * (number % 3) + 0.002 * seed))
            positives, negatives = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
            positives[[-1, 0]], negatives[0] = (hit, PIXELS - hit), PIXELS
            images.append(ImageScore(f"{number}", "crack", f"{number}", positives, negatives, positives / PIXELS))
        kind, given = ("fast", ratio) if row else (None, None)
        name = "real+synthetic" if row else "real"
        found.append(
            Arm(name, kind, given, seed, Scores(images), 0.5, num_inference_steps=10 if row else None, row=row)
        )
    return found


def overall(found):
    return {
        (d["row"], d["baseline"], d["ratio"]): round(d["mean"], 6)
        for d in found
        if (d["metric"], d["defect"]) == ("miou", None)
    }


def compared(rows, **settings):
    return against_rows(rows, rng=np.random.default_rng(0), resamples=20, **settings)


def test_every_row_meets_the_best_reference_and_the_named_rows():
    rows = [*arms("pasted", 0.5), *arms("NSA", 0.4), *arms("FAST", 0.6), *arms("FAST, 6 steps", 0.55)]
    assert overall(compared(rows, compare_with=["FAST"], references=["pasted", "NSA"])) == {
        ("NSA", "pasted", 1.0): -0.1,
        ("FAST", "pasted", 1.0): 0.1,
        ("FAST, 6 steps", "pasted", 1.0): 0.05,
        ("pasted", "FAST", 1.0): -0.1,
        ("NSA", "FAST", 1.0): -0.2,
        ("FAST, 6 steps", "FAST", 1.0): -0.05,
    }


def test_rows_are_compared_at_equal_ratios():
    rows = [*arms("a", 0.5), *arms("b", 0.6), *arms("a", 0.3, ratio=2.0), *arms("b", 0.2, ratio=2.0)]
    found = overall(compared(rows, compare_with=[], references=["a", "b"]))
    assert found == {("a", "b", 1.0): -0.1, ("b", "a", 2.0): -0.1}


def test_a_baseline_that_is_not_there_yet_is_left_out():
    assert compared(arms("FAST", 0.5), compare_with=["CRN"], references=["CRN"]) == []
    assert best_reference({"FAST": arms("FAST", 0.5)}, []) is None


def test_the_verdict_names_the_row_and_two_rows_of_one_renderer_are_two_arms():
    every = [*arms(None, 0.4), *arms("FAST", 0.5), *arms("FAST with FARM", 0.3)]
    rng = np.random.default_rng(0)
    found = results(every, command="", commit="", machine={}, data={}, rng=rng, resamples=20)
    assert overall(found["differences"]) == {("FAST", "real", 1.0): 0.1, ("FAST with FARM", "real", 1.0): -0.1}
    assert "with FAST at ratio 1:1, the best of 2 arms" in found["verdict"]
    worse = [d for d in found["differences"] if d["row"] == "FAST with FARM"]
    assert "hurts" in verdict(worse)
    assert [row["row"] for row in found["rows"]] == [None] * 3 + ["FAST"] * 3 + ["FAST with FARM"] * 3


def test_the_interval_of_a_row_is_the_same_whatever_other_rows_there_are():
    def of_fast(*others):
        every = [*arms(None, 0.4), *(arm for name, recall in others for arm in arms(name, recall)), *arms("FAST", 0.5)]
        made = results(every, command="", commit="", machine={}, data={}, rng=np.random.default_rng(0), resamples=50)
        return [d for d in made["differences"] if d["row"] == "FAST"]

    assert of_fast() == of_fast(("pasted", 0.45), ("NSA", 0.3))
