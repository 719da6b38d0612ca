"""A sheet of renderers shows, per defect type, real defects and the same masks by every renderer."""

import itertools

import numpy as np
from sheets import TILE, draw

from fastsynth.config import load_config
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.sheets import GAP

TYPES, LINES, COLUMNS = 2, 4, 3


def test_a_sheet_shows_the_same_places_drawn_by_every_renderer(trained):
    run = Run(load_config(RunConfig, trained))
    sheet = draw(run, columns=COLUMNS)
    assert np.array_equal(sheet, draw(run, columns=COLUMNS))
    cell = TILE + GAP
    lines = sheet[GAP:, -COLUMNS * cell :].reshape(TYPES, LINES, cell, COLUMNS * cell, 3)
    for of_type in lines:
        real, *made = (line[:TILE].reshape(TILE, COLUMNS, cell, 3)[:, :, :TILE] for line in of_type)
        for one, other in itertools.combinations(made, 2):
            assert 0.3 < (one == other).all(axis=3).mean() < 0.99  # alike around the masks alone
        shown = (real != 255).any(axis=3)  # the rest is paper
        assert all((real == one).all(axis=3)[shown].mean() < 0.1 for one in made)
