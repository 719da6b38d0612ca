"""A table of renderers becomes a page, and its verdicts stand among the others."""

import json

import bench_page
import numpy as np
import pages
import pytest
from PIL import Image

SCORES = {"miou": 0.4, "acc": 0.5, "f1": 0.5, "ap": 0.3, "pro": 0.8, "false_alarm": 0.25}


def score(row: str | None, renderer: str | None, seed: int) -> dict:
    return {
        "arm": "real+synthetic" if row else "real",
        "renderer": renderer,
        "ratio": 1.0 if row else None,
        "row": row,
        "seed": seed,
        **SCORES,
        "miou": 0.4 + 0.02 * seed,
        "per_defect": {"crack": {"iou": 0.3}, "pit": {"iou": 0.5}},
    }


def minus(row: str, baseline: str, low: float, *, metric: str = "miou", defect: str | None = None) -> dict:
    return {
        **{"arm": "real+synthetic", "renderer": "fast", "ratio": 1.0, "row": row, "baseline": baseline},
        **{"metric": metric, "defect": defect, "mean": low + 0.05, "low": low, "high": low + 0.1},
    }


QUALITY = {
    "mean": {"kid": 1.2345, "kid_training": 1.5, "diversity": 0.31, "copies": 0.222, "nearest": 3.456},
    "types": {"crack": {"kid": {"mean": 1.2345, "low": 1.0, "high": 2.0}}},
    "names": {
        **{"kid": "KID, some features", "copies": "share of samples like a known one", "nearest": "distance to one"},
        **{"inception_score": "inception score, some classes", "alignment": "IoU with the change"},
    },
}


def made(minutes: float | None) -> dict:
    return {
        "renderer_minutes": minutes,
        "renderer_peak_memory_mb": 1234.5,
        "seconds_per_image": 0.456,
        "quality": QUALITY,
        "verdict": "No measurable gain.",
    }


RESULT = {
    "command": "fastsynth bench configs/bench_tiles.yaml",
    "commit": "abc",
    "machine": {"processor": "P", "cores": 2, "memory_gb": 8.0},
    "data": {"sha256": "0", "train_images": 9},
    "rows": [
        score(*row, seed) for row in ((None, None), ("FAST", "fast"), ("pasted", "copy_paste")) for seed in (0, 1)
    ],
    "differences": [
        minus("FAST", "real", 0.01),
        minus("FAST", "real", -0.02, defect="crack"),
        minus("FAST", "real", -0.02, defect="pit"),
        minus("pasted", "real", -0.2, metric="pro"),
        minus("FAST", "pasted", -0.02),
    ],
    "verdict": "Synthetic data helps.",
    "rules": {"empty_mask": "counts"},
    "references": ["pasted"],
    "table": {"FAST": made(12.34), "pasted": made(None)},
}


def cells(page: str, row: str) -> list[list[str]]:
    """The lines of all tables that begin with `row`."""
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| {row} |")]


def test_the_page_says_when_every_seed_had_samples_of_its_own():
    def page(samples: list[int], stored: int) -> str:
        rows = [
            score(None, None, 0),
            *({**score("FAST", "fast", n), "samples": many} for n, many in enumerate(samples)),
        ]
        found = RESULT | {"rows": rows, "table": {"FAST": made(1.0) | {"samples": stored}}}
        return bench_page.bench_page("bench_tiles", found, "")

    assert "learns from 4 samples that no other" in page([4, 4], 8)
    assert "learns from 3 to 4 samples that no other" in page([4, 3], 7)
    assert "samples that no other" not in page([8, 8], 8)


def test_the_page_has_scores_cost_and_intervals_of_every_row():
    page = bench_page.bench_page("bench_tiles", RESULT, "Mind this.")
    assert page.startswith("# The table of renderers: tiles\n\n**Synthetic data helps.**\n")
    assert "](bench_tiles.jpg)\n\nMind this.\n" in page
    costs = "KID | diversity | s per image | training, min | peak memory, MB"
    assert f"| row | mIoU | Acc | AP | PRO | false alarms | {costs} |" in page
    common = ["41.0 ± 1.4", "50.0 ± 0.0", "30.0 ± 0.0", "80.0 ± 0.0", "25.0 ± 0.0"]
    scores, looks, to_real, to_pasted, types, gains = cells(page, "FAST")
    assert looks[1:] == ["1.234 (1.000 to 2.000)", "–", "3.46", "22 %", "–", "–"]
    assert "The training defects themselves have a KID of 1.500." in page
    assert "\n- KID, some features\n" in page
    assert "\n- copies: share of samples like a known one\n" in page
    assert scores[1:] == [*common, "1.234", "0.310", "0.46", "12.3", "1234"]
    assert to_real[1:] == ["**+6.0 (+1.0 to +11.0)**", "–"]
    assert to_pasted[1:] == ["+3.0 (-2.0 to +8.0)"]
    assert types[1:] == ["30.0 ± 0.0", "50.0 ± 0.0"]
    assert gains[1:] == ["+3.0 (-2.0 to +8.0)"] * 2
    assert cells(page, "real")[0][1:] == [*common, *"–––––"]
    assert cells(page, "pasted")[0][-2] == "–"
    assert "Difference to pasted, a reference renderer, in points:" in page
    assert page.endswith("from `benchmarks/results/bench_tiles.json`.\n")


def test_the_page_has_imagewise_scores_where_they_were_measured():
    rows = [{**row, "miou_imagewise": 0.45} for row in RESULT["rows"]]
    imagewise = [minus("FAST", "real", 0.02, metric="miou_imagewise", defect=defect) for defect in (None, "crack")]
    found = RESULT | {"rows": rows, "differences": [*RESULT["differences"], *imagewise]}
    page = bench_page.bench_page("bench_tiles", found, "")
    assert "| row | mIoU | mIoU, imagewise | Acc |" in page
    scores, _, to_real, *_, gains = cells(page, "FAST")
    gain = "**+7.0 (+2.0 to +12.0)**"
    assert (scores[2], to_real[2], gains[1:]) == ("45.0 ± 0.0", gain, [gain])
    overview = pages.overview_page({"tiles": found}, "")
    assert "mIoU, imagewise" in overview
    assert overview.count("crack") == 1
    assert "imagewise" not in bench_page.bench_page("bench_tiles", RESULT, "")


def test_the_overview_has_every_row_against_the_real_arm_and_nothing_else():
    page = pages.overview_page({"bench_tiles": RESULT}, "")
    found = cells(page, "[bench_tiles](bench_tiles.md)")
    assert [(row[1], row[2], row[-1]) for row in found] == [
        ("FAST, 1:1", "mIoU", "**gain**"),
        ("pasted, 1:1", "PRO", "**loss**"),
    ]
    assert "crack" not in page


@pytest.fixture
def root(tmp_path):
    """A project with a committed result of a table."""
    folder, root = tmp_path / "runs" / "bench_tiles", tmp_path / "project"
    for path in (folder, root / "benchmarks" / "results", root / "docs"):
        path.mkdir(parents=True)
    (folder / "bench.json").write_text(json.dumps(RESULT))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "sheet.png")
    assert bench_page.take(folder, root).name == "bench_tiles.json"
    return root


def test_a_finished_table_is_fetched_and_gets_its_page(root, monkeypatch):
    assert (root / "docs" / "bench_tiles.jpg").is_file()
    monkeypatch.setattr(pages, "RESULTS", root / "benchmarks" / "results")
    monkeypatch.setattr(pages, "autoencoder_page", lambda *_: "")
    generated = pages.pages()
    assert generated["bench_tiles"] == bench_page.bench_page("bench_tiles", RESULT, "")
    assert "(bench_tiles.md)" in generated["when_synthesis_helps"]
