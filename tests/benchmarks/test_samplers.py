"""Laws of the sampler study, on a model of three training steps: what a cell measures, resuming, and the page."""

import re
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sampler_cells import AXES, CELLS, DEFAULT, NOISE, SAMPLERS, Cell
from samplers import Study, fill
from samplers_page import page, plot

from fastsynth.config import load_config
from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.config import FASTConfig
from fastsynth.files import read_json, write_json
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

# diffusers hands a tensor to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
COUNT = 16


@pytest.fixture(scope="module")
def open_study(trained) -> Callable[..., Study]:
    """Opens the study of the trained run, with overrides of its configuration."""
    return lambda *overrides, count=COUNT: Study(Run(load_config(RunConfig, trained, overrides)), count=count)


@pytest.fixture(scope="module")
def study(open_study) -> Study:
    return open_study()


def sampled(name: str, **changes) -> Cell:
    """A sampler's cell from noise, as it is usually run."""
    (settings,) = [s for s in SAMPLERS if s["sampler"] == name and s["spacing"] == changes.get("spacing", s["spacing"])]
    return Cell(**{**NOISE.values(), **settings, **changes})


class TestCells:
    def test_every_cell_has_a_trajectory_of_as_many_calls_and_a_name_of_its_own(self):
        levels = AIASScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        for cell in CELLS:
            scheduler = cell.scheduler(levels)
            scheduler.set_timesteps(cell.calls, strength=cell.strength)
            assert len(scheduler.timesteps) == cell.calls
        assert len({cell.name for cell in CELLS}) == len(CELLS)

    def test_the_star_s_centre_is_the_default_renderer(self):
        assert DEFAULT in CELLS
        assert DEFAULT.settings(FASTConfig()) == FASTConfig()


class TestMeasuring:
    @pytest.mark.parametrize(
        "cell",
        [DEFAULT, sampled("plms", calls=4), sampled("dpm++ 2m", calls=2, spacing="logsnr")],
        ids=lambda c: c.name,
    )
    def test_a_cell_counts_its_calls_and_judges_every_type(self, study, cell):
        found = study.measure(cell)
        assert found["nfe"] == cell.calls
        assert set(found["types"]) == {"tile/blob", "tile/crack"}
        assert sum(each["samples"] for each in found["types"].values()) == COUNT
        assert found["kid"]["low"] < found["kid"]["mean"] < found["kid"]["high"]
        assert all(of_type["diversity"] > 0 for of_type in found["types"].values())
        assert found["seconds_per_image"] > 0
        assert read_json(study.path(cell)) == found

    def test_every_cell_draws_the_same_layouts_with_the_same_seeds(self, study):
        """DDIM with η = 1 is DDPM: from other masks, backgrounds or noise it would not stand where DDPM stands."""
        ddpm, ddim = (study.measure(sampled(name, calls=4)) for name in ("ddpm", "ddim 1"))
        assert ddim["kid"] == pytest.approx(ddpm["kid"], rel=1e-3)
        for pair, of_type in ddpm["types"].items():
            assert ddim["types"][pair]["diversity"] == pytest.approx(of_type["diversity"], rel=1e-3)

    def test_a_cell_measured_again_gives_the_same_figures_but_for_the_time(self, study):
        first, second = (study.measure(sampled("ddim 1", calls=2)) for _ in range(2))
        assert first | {"seconds_per_image": 0} == second | {"seconds_per_image": 0}

    def test_a_segmenter_learns_from_the_cell_s_own_samples(self, study):
        cell = sampled("ddim 1", calls=2)
        found = study.segment(cell)
        assert [(row["arm"], row["seed"]) for row in found["scores"]] == [("real", 0), ("real+synthetic", 0)]
        assert [gain["metric"] for gain in found["gains"]] == ["miou"]
        (store,) = (study.folder / "stores").iterdir()
        assert store.name == cell.name
        assert (store / "split.json").read_bytes() == study.run.split_path.read_bytes()


class TestResuming:
    def test_finished_cells_are_not_measured_again(self, study):
        cells = [sampled("ddim 0", calls=2), sampled("ddpm", calls=2)]
        fill(study, cells, miou=False)
        write_json(study.path(cells[0]), {"kept": True})
        study.path(cells[1]).unlink()
        fill(study, cells, miou=False)
        assert read_json(study.path(cells[0])) == {"kept": True}
        assert read_json(study.path(cells[1]))["name"] == cells[1].name
        study.path(cells[0]).unlink()

    def test_other_conditions_are_refused(self, study, open_study):
        with pytest.raises(ValueError, match="measured with count 16, now it is 24; go on as it was"):
            open_study(count=24)
        with pytest.raises(ValueError, match=r"measured with feather 2\.0, now it is 0\.0"):
            open_study("renderer.feather=0")

    def test_only_fast_has_samplers(self, open_study, tmp_path):
        with pytest.raises(ValueError, match=r"renderer\.kind is draem; only fast"):
            open_study('renderer={"kind": "draem"}', f"output={tmp_path}")


class TestPage:
    @pytest.fixture
    def result(self) -> dict:
        """All cells but two, as they would be recorded; one with a segmenter's gain."""
        cells = [
            {
                **cell.values(),
                "name": cell.name,
                "nfe": float(cell.calls),
                "seconds_per_image": 0.1 + 0.03 * cell.calls,
                "kid": {"mean": 1 / cell.calls + place / 50, "low": 0.0, "high": 4.0},
                "types": {"tile/blob": {"diversity": 1.0}, "tile/crack": {"diversity": 2.0}},
            }
            for place, cell in enumerate(CELLS[:-2])
        ]
        gain = {"arm": "real+synthetic", "ratio": 1.0, "metric": "miou", "mean": 0.012, "low": -0.01, "high": 0.034}
        cells[0]["miou"] = {"gains": [gain]}
        return {
            "command": "python benchmarks/samplers.py mine.yaml 200",
            "commit": "abc",
            "machine": {"processor": "cpu", "cores": 2, "memory_gb": 8},
            "data": "mine",
            "cells": cells,
            "missing": [cell.name for cell in CELLS[-2:]],
            "names": {"kid": "KID, some features", "diversity": "diversity, some distance"},
            "conditions": {"count": 200, "seed": 0, "threads": 2},
        }

    def test_every_measured_cell_stands_in_all_of_its_axes(self, result):
        text = page("samplers_mine", result, "A remark.")
        known = {cell["name"] for cell in result["cells"]}
        for axis, cells in AXES.items():
            (shared, section), *more = re.findall(rf"## {axis}\n\n(.*?)\n\n(.*?)\n\n", text, flags=re.DOTALL)
            assert not more
            assert ("start noise" in shared) == all(cell.start == "noise" for cell in cells)
            assert len(section.splitlines()) == 2 + sum(cell.name in known for cell in cells)
        assert "+1.2 (-1.0 to +3.4)" in text
        assert "Not measured: 2 cells." in text
        assert "A remark." in text
        assert all(
            len(line) > 0 or before for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        )

    def test_a_diversity_that_not_every_type_has_is_not_shown(self, result):
        assert "| 1.500 |" in page("samplers_mine", result, "")
        for cell in result["cells"]:
            cell["types"]["tile/blob"]["diversity"] = None
        assert "diversity" not in page("samplers_mine", result, "")

    def test_the_nearest_cell_is_named_and_the_default_stands_beside_it(self, result):
        text = page("samplers_mine", result, "")
        assert "Nearest: aias exact, logsnr, order 2, 50 calls, farm input, noise, x0_blend, KID 0.120" in text
        assert "The default, aias exact, logsnr, order 2, 10 calls, farm off, exemplar 0.2, x0_blend: KID " in text

    def test_the_plot_is_a_small_picture_with_a_curve_of_every_sampler(self, result):
        def drawn(shown: dict) -> list[bool]:
            picture = cv2.imdecode(np.frombuffer(plot(shown), np.uint8), cv2.IMREAD_COLOR_RGB)
            colours = [np.rint(np.multiply(to_rgb(f"C{number}"), 255)) for number in range(len(SAMPLERS))]
            return [bool((picture == colour).all(axis=2).sum() > 100) for colour in colours]  # more than a letter

        assert drawn(result) == [True] * len(SAMPLERS)
        assert drawn(result | {"cells": result["cells"][:2]}) == [True] + [False] * (len(SAMPLERS) - 1)
        assert len(plot(result)) < 150_000
