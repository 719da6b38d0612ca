"""Drawings made by hand and without a model: which of them the gate refuses is known from the id and the attempt."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsynth.data.manifest import Shard
from fastsynth.data.store import Store
from fastsynth.files import sha256_file
from fastsynth.images import read_image
from fastsynth.quality.gate import Gate
from fastsynth.quality.gate_config import GateConfig
from fastsynth.recipes.filtering import Draw, Filling
from fastsynth.types import Instance, Layout, Sample, sample_seed

IDENTITY = {
    "config_sha256": "c",
    "model_sha256": None,
    "data_sha256": "d",
    "run_seed": 7,
    "version": "0.1.0",
    "defects": ["spot"],
    "gate": {"generate.gate.attempts": 8},
}
SOURCE = "plate/train/good/000.png"
COUNT, ATTEMPTS = 10, 3
UNITS = [list(range(0, 8)), list(range(8, 16))]
RULES = GateConfig.model_validate({"seam": {"enabled": False}}).rules()
GIVEN_UP, TWIN, ORIGINAL = 5, 8, 2
"""Never visible; at first the same as another one, of the other unit."""
WANTED = {0: 0, 1: 1, 2: 0, 3: 0, 4: 2, 6: 0, 7: 0, 8: 1, 9: 1}
"""id → attempt that passes."""
REFUSED = {(1, 0), (4, 0), (4, 1), (5, 0), (5, 1), (5, 2), (8, 0), (9, 0)}


def drawing(background: np.ndarray, sample_id: int, attempt: int) -> Sample:
    """A dark spot; invisible where the gate has to say no. Its seed is the real one, its look follows its id."""
    look = ORIGINAL if (sample_id, attempt) == (TWIN, 0) else sample_id
    rng = np.random.default_rng((look, attempt))
    size = rng.integers(10, 16, 2)
    left, top = int(rng.integers(50)), int(rng.integers(45))
    layout = Layout(
        background, SOURCE, "plate", (Instance(1, "spot", np.ones(size, bool), left, top, shape_source="m"),)
    )
    visible = sample_id != GIVEN_UP and (sample_id == TWIN or attempt >= WANTED[sample_id])
    depth = rng.integers(30, 70, background.shape) if visible else 1
    image = np.where(layout.foreground[..., None], background - depth, background).astype(np.uint8)
    mask = layout.foreground.astype(np.uint8) * 255
    return Sample(image, mask, layout, sample_seed(7, sample_id, attempt), "by_hand")


def drawer(data_root: Path, drawn: list | None = None, *, stop_after: int | None = None) -> Draw:
    """Keeps a list of what was drawn together; stops like Ctrl-C after so many calls."""
    background, calls = read_image(data_root / SOURCE), [] if drawn is None else drawn

    def draw(ids: Sequence[int], attempt: int) -> list[Sample]:
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append((list(ids), attempt))
        known = [number if number in WANTED or number == GIVEN_UP else 0 for number in ids]
        return [drawing(background, number, attempt) for number in known]

    return draw


def fill(
    folder: Path,
    data_root: Path,
    draw: Draw,
    *,
    count: int = COUNT,
    gated: bool = True,
    shard: Shard | None = None,
    keep_rejected: bool = True,
) -> int:
    """Fill the store or one shard of it; returns how many samples were drawn."""
    identity = {key: value for key, value in IDENTITY.items() if gated or key != "gate"}
    with Store.open(folder, identity=identity, shard=shard) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        filling = Filling(
            store,
            source_sha256={SOURCE: sha256_file(data_root / SOURCE)},
            gate=Gate([], rules=RULES) if gated else None,
            attempts=ATTEMPTS,
            keep_rejected=keep_rejected,
            halo=0,
            with_truth=gated,
        )
        units = [unit for number, unit in enumerate(UNITS) if shard is None or shard.owns(number)]
        for unit in filling.missing(units, count=count):
            filling.settle(unit, draw, count=count)
        filling.finish(count=count)
    return filling.made


def rejected_lines(folder: Path) -> list[dict]:
    return [json.loads(raw) for raw in (folder / "rejected" / "rejected.jsonl").read_text().splitlines()]
