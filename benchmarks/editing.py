"""Draws the pictures of docs/editing.md: python benchmarks/editing.py

One layout on the demo data's fabric, through every kind of edit and back, by the copy_paste renderer: no training.
Each picture is an edit render of the first one, so what did not change is the same in all of them, bit for bit.
"""

from pathlib import Path

import numpy as np

from fastsynth.data.demo import draw_normal, draw_pair
from fastsynth.images import outline
from fastsynth.layouts.editing import looks_of
from fastsynth.layouts.editing_history import History, RunLengths, parse_edit
from fastsynth.layouts.editing_modes import edit_render, full_render
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.layout import add_instance
from fastsynth.layouts.masks import RealMask, RealPart, split_parts
from fastsynth.sheets import contact_sheet, save_sheet
from fastsynth.types import Layout
from generators.reference import ReferenceRenderer, copy_paste

DOCS = Path(__file__).parent.parent / "docs"
CATEGORY, DEFECTS, SIZE, SEED = "woven_fabric", ("hole", "oil_spot", "thread_pull"), (176, 176), 2
TILE = 176


def main() -> None:
    rng = np.random.default_rng(SEED)
    exemplars = [exemplar(defect, number, rng) for defect in DEFECTS for number in range(3)]
    renderer = ReferenceRenderer("copy_paste", copy_paste(ExemplarBank(exemplars), blend="light"), context=2.0)
    parts = {defect: largest(next(e for e in exemplars if e.defect == defect)) for defect in DEFECTS}

    layout = Layout(draw_normal(CATEGORY, size=SIZE, rng=rng), "normal.png", CATEGORY)
    for defect, left, top in (("oil_spot", 14, 20), ("hole", 110, 24)):
        layout = add_instance(layout, defect=defect, mask=parts[defect].foreground, left=left, top=top)
    (picture,) = full_render(renderer, [layout], [SEED])

    pull = RunLengths.of(parts["thread_pull"].foreground).model_dump()
    steps = {
        "add": {"op": "add", "defect": "thread_pull", "mask": pull, "left": 20, "top": 110},
        "move": {"op": "move", "id": 2, "dx": -6, "dy": 84},
        "change class": {"op": "set_class", "id": 2, "defect": "oil_spot"},
        "restyle": {"op": "restyle", "seed": 5},
        "remove": {"op": "remove", "id": 1},
    }
    history, shown = History(layout), {"original": layout}
    for name, values in steps.items():
        history = history.then(parse_edit(values))
        shown[name] = history.layout
    shown["undo"] = history.undo().layout

    looks = looks_of(history.undo().layout, 5, seed=SEED)
    states = [*shown.values(), *looks]
    samples = edit_render(renderer, layout, states, [SEED] * len(states), picture=picture.image)
    pictures = [[sample.image, outline(sample.image, sample.layout.foreground)] for sample in samples]
    steps_made, looks_made = pictures[: len(shown)], pictures[len(shown) :]
    rows = [list(row) for row in zip(*steps_made, strict=True)]
    sheet = contact_sheet(rows, row_labels=["", "outlined"], column_labels=list(shown), tile=TILE)
    save_sheet(DOCS / "editing.jpg", sheet)
    row = [look for look, _ in looks_made]
    sheet = contact_sheet([row], row_labels=["looks"], column_labels=[str(n) for n in range(1, 6)], tile=TILE)
    save_sheet(DOCS / "editing_looks.jpg", sheet)
    for name, sample in zip(shown, samples, strict=False):
        same = (sample.image == picture.image).all(axis=2)
        print(f"{name}: changed {sample.notes['changed']}, {same.mean():.1%} of the pixels as in the original")


def exemplar(defect: str, number: int, rng: np.random.Generator) -> Exemplar:
    """A damaged piece of fabric."""
    _, image, foreground = draw_pair(CATEGORY, defect, size=SIZE, rng=rng)
    return Exemplar(image, foreground, CATEGORY, defect, f"{defect}/{number}.png")


def largest(found: Exemplar) -> RealPart:
    parts = split_parts(RealMask(found.source, found.defect, found.foreground))
    return max(parts, key=lambda part: int(part.foreground.sum()))


if __name__ == "__main__":
    main()
