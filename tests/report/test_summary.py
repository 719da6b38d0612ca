import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsynth.report import summary


def row(arm="real", **values):
    return {"arm": arm, "per_defect": {}, **values}


def difference(low, high, metric="miou"):
    return {"arm": "a", "baseline": "real", "metric": metric, "mean": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("fast helps at ratio 2", "helps"),
        ("No measurable gain at any ratio", "same"),
        ("It hurts for cracks", "hurts"),
        ("hurts for crack, helps for fray", "hurts"),
        ("", "same"),
    ],
)
def test_the_first_answer_in_the_verdict_gives_its_colour(verdict, tone):
    assert summary.verdict_tone(verdict) == tone


@given(low=st.floats(-1, 1), width=st.floats(0, 1))
def test_a_difference_counts_only_when_its_interval_excludes_zero(low, width):
    high = low + width
    tone = summary.difference_tone(difference(low, high))
    assert (tone == "same") == (low <= 0 <= high)
    mirrored = {"helps": "hurts", "hurts": "helps", "same": "same"}
    assert summary.difference_tone(difference(low, high, "false_alarm")) == mirrored[tone]


def test_scores_of_an_arm_are_the_mean_and_range_over_its_seeds():
    (arm,) = summary.overall_scores([row(miou=0.5, seed=0), row(miou=0.6, seed=1), row(miou=0.7, seed=2)])
    assert arm.seeds == 3
    assert arm.scores["miou"].mean == pytest.approx(0.6)
    assert (arm.scores["miou"].low, arm.scores["miou"].high) == (0.5, 0.7)
    assert not arm.best


def test_the_best_arm_has_the_highest_score_and_the_lowest_false_alarm_rate():
    first, second = summary.overall_scores(
        [row(miou=0.5, false_alarm=0.1), row("synthetic", miou=0.6, false_alarm=0.2)]
    )
    assert first.best == {"false_alarm"}
    assert second.best == {"miou"}


def test_arms_differ_by_renderer_ratio_and_steps():
    rows = [
        row("real+synthetic", renderer="fast", ratio=ratio, num_inference_steps=steps, miou=0.5)
        for ratio in (1.0, 2.0)
        for steps in (10, 50)
    ]
    assert len(summary.by_arm(rows)) == 4
    assert summary.arm_label(rows[0]) == "real+synthetic · fast · ratio 1:1 · 10 steps"
    assert summary.arm_label(row(renderer=None, ratio=None, num_inference_steps=0)) == "real"


def test_the_iou_of_a_type_stands_in_the_column_of_the_mean_over_types():
    tables = summary.scores_per_defect([row(per_defect={"crack": {"iou": 0.4}, "fray": {"iou": 0.6}})])
    assert list(tables) == ["crack", "fray"]
    assert tables["crack"][0].scores["miou"].mean == 0.4


def test_the_funnel_adds_up():
    made = [{"renderer": "fast", "defect": "crack"}] * 5
    refused = [{"renderer": "fast", "defect": "crack", "reason": reason} for reason in ("seam", "seam", "empty")]
    (line,) = summary.funnel(made, refused)
    assert (line.made, line.kept, line.rejected) == (8, 5, 3)
    assert line.reasons == {"seam": 2, "empty": 1}


def test_curves_are_the_numbers_logged_along_a_key():
    records = [{"step": step, "loss": 1 / step, "stage": "a", "seconds": 3.0, "done": True} for step in (1, 2, 4)]
    assert summary.curves([*records, {"loss": 9.0}], along="step") == {"loss": [(1.0, 1.0), (2.0, 0.5), (4.0, 0.25)]}


def test_minutes_of_a_resumed_stage_add_up():
    log = [
        {"stage": "train", "seconds": 60},
        {"stage": "train", "step": 3, "seconds": 5},
        {"stage": "train", "seconds": 30},
    ]
    assert summary.stage_minutes(log) == {"train": 1.5}


def test_points_have_a_sign():
    assert [summary.points(value) for value in (0.052, -0.031, 0.0)] == ["+5.2", "−3.1", "+0.0"]


def test_every_image_of_the_split_is_counted_once_under_its_kind():
    split = {
        "train": ["test/crack/1.png", "normal/2.png"],
        "val": ["defects/crack/3.png"],
        "test": ["bottle/test/crack/4.png"],
    }
    assert summary.split_counts(split) == [
        summary.SplitLine("bottle, crack", 0, 0, 1),
        summary.SplitLine("crack", 1, 1, 0),
        summary.SplitLine("normal", 1, 0, 0),
    ]


def test_the_fact_on_top_is_the_gain_the_verdict_speaks_of():
    rows = [row(miou=0.5), row("real+synthetic", miou=0.6), row("synthetic", miou=0.7)]
    differences = [
        difference(0.0, 0.2) | {"arm": arm, "mean": mean} for arm, mean in (("real+synthetic", 0.1), ("synthetic", 0.2))
    ]
    gain, scores = summary.score_facts(rows, differences)
    assert (gain.value, gain.note) == ("+10.0", "points; 95 %: +0.0 to +20.0")
    assert (scores.value, scores.note) == ("50.0 → 60.0", "real → real+synthetic")
