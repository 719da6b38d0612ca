"""Remarks take their figures from the results, and cannot name one that is not there."""

import pytest
from remark_figures import fill

ROWS = [
    {"row": None, "arm": "real", "per_defect": {"crack": {"iou": 0.30}}},
    {"row": None, "arm": "real", "per_defect": {"crack": {"iou": 0.34}}},
    {"row": "A", "arm": "real+synthetic", "per_defect": {"crack": {"iou": 0.41}}},
    {"row": "B", "arm": "real+synthetic", "per_defect": {"crack": {"iou": 0.25}}},
]
DIFFERENCES = [
    {"row": "A", "baseline": "real", "metric": "miou", "defect": None, "mean": 0.051, "low": -0.012, "high": 0.2},
    {"row": "A", "baseline": "real", "metric": "miou", "defect": "crack", "mean": 0.09, "low": 0.01, "high": 0.1},
    {"row": "B", "baseline": "A", "metric": "miou", "defect": None, "mean": -0.03, "low": -0.05, "high": 0.04},
]
TABLE = {name: {"quality": {"mean": {"kid": kid, "copies": 0.216}}} for name, kid in {"A": 1.2345, "B": 2.0}.items()}
RUN = {"rows": [], "differences": [{**DIFFERENCES[0], "row": None, "renderer": "fast", "mean": 0.02}]}
RESULTS = {"bench": {"rows": ROWS, "differences": DIFFERENCES, "table": TABLE}, "run": RUN}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("A - real | miou", "+5.1 (−1.2 to +20.0)"),
        ("A - real | miou | point", "+5.1"),
        ("A - real | miou of crack", "+9.0 (+1.0 to +10.0)"),
        ("A - B | miou", "+3.0 (−4.0 to +5.0)"),
        ("B - A | miou", "−3.0 (−5.0 to +4.0)"),
        ("real | iou of crack", "32.0"),
        ("A; B | iou of crack", "25.0 to 41.0"),
        ("A | kid", "1.23"),
        ("A | copies", "22"),
        ("run: fast - real | miou", "+2.0 (−1.2 to +20.0)"),
    ],
)
def test_a_figure_is_that_of_the_results(written, told):
    assert fill(f"at {{{{{written}}}}}, and", RESULTS, "bench") == f"at {told}, and"


@pytest.mark.parametrize("written", ["C - real | miou", "A - real | pro", "A | kit", "A", "other: A - real | miou", ""])
def test_what_no_result_has_is_refused(written):
    with pytest.raises(ValueError, match=r"bench.md: \{\{.*no such figure"):
        fill(f"at {{{{ {written} }}}}", RESULTS, "bench")


def test_remarks_without_figures_stay_as_they_are():
    assert fill("no {figure} at all", {}, "bench") == "no {figure} at all"
