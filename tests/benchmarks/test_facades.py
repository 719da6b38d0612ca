"""The page of the facades says what was measured, renderer by renderer."""

from facades import NAMES as RENDERERS
from facades import page

from fastsynth.recipes.photo_judging import NAMES


def distance(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def measured(mean: float, **more) -> dict:
    kid = {"renders": distance(mean), "nearest": distance(0.5), "training": distance(0.0)}
    losses = {"1": {"l1": 0.25}, "2": {"l1": 0.125}}
    cost = {"stage_steps": [9, 8], "batch_size": 4, "minutes": 41.4}
    return {**cost, "losses": losses, "pictures": 40, "kid": kid, "names": NAMES, **more}


def test_every_renderer_has_its_row_beside_the_baselines():
    rows = {"crn": measured(1.5), "pix2pixhd": measured(1.25, leak=0.125)}
    head = {"command": "facades.py", "commit": "abc", "machine": {"processor": "x", "cores": 2, "memory_gb": 24}}
    lines = page({**head, "renderers": rows}, "What to read from it.").splitlines()
    assert "| CRN | 3 | 1.500 (1.400 to 1.600) | no styles |" in lines
    assert "| pix2pixHD | 3 | 1.250 (1.150 to 1.350) | 0.12 |" in lines
    assert "| nearest training photo | 1 | 0.500 (0.400 to 0.600) |  |" in lines
    assert all(
        f"| {name} | 9 + 8 | 4 | 41 |" in lines and f"| {name} | 2 | l1 0.125 |" in lines for name in RENDERERS.values()
    )
    assert "What to read from it." in lines
