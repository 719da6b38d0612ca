"""Draws the pictures of docs/editing.md: python benchmarks/editing.py [--photos CONFIG PHOTO]

One layout on the demo data's fabric, through every kind of edit and back, by the copy_paste renderer: no training.
Each picture is an edit render of the first one, so what did not change is the same in all of them, bit for bit.
--photos: instead, edits of a photo's whole layout by the pix2pixHD that `fastsynth photo train CONFIG` has left. The
edits are chosen by areas alone: the largest window, then the next ones.
"""

import argparse
from pathlib import Path

import numpy as np

from fastsynth.config import load_config
from fastsynth.data.demo import draw_normal, draw_pair
from fastsynth.images import outline
from fastsynth.layouts.editing import looks_of, move_instance, restyle_all, set_class, set_style
from fastsynth.layouts.editing_history import History, RunLengths, parse_edit
from fastsynth.layouts.editing_modes import edit_render, full_render
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.layout import add_instance, class_map, remove_instance
from fastsynth.layouts.parts import RealMask, RealPart, split_parts
from fastsynth.recipes.photo_editing import load_photo_renderer, photo_layout
from fastsynth.recipes.photos import open_pairs
from fastsynth.sheets import contact_sheet, save_sheet
from fastsynth.types import CentreStyle, Layout
from generators.layout_config import PhotoConfig
from generators.reference import ReferenceRenderer, copy_paste
from generators.sample_sheet import paint

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


def edit_photo(config: Path, name: str) -> None:
    """docs/editing_photo.jpg: layout and picture after every edit."""
    settings = load_config(PhotoConfig, config)
    renderer = load_photo_renderer(settings)
    layout = photo_layout(open_pairs(settings), name)
    windows = sorted((one for one in layout.instances if one.defect == "window"), key=lambda one: -one.area)
    first, second, third, *_ = (one.id for one in windows)
    edits = {
        "all drawn": layout,
        "move": move_instance(layout, first, dx=windows[0].mask.shape[1] // 2, dy=0, clip="image"),
        "change class": set_class(layout, second, "door"),
        "remove": remove_instance(layout, third),
        "centre:0": set_style(layout, first, CentreStyle(0)),
        "centre:5": set_style(layout, first, CentreStyle(5)),
        "restyle": restyle_all(layout, SEED),
    }
    renders = full_render(renderer, list(edits.values()), [SEED] * len(edits))
    kept = edit_render(renderer, layout, [edits["change class"]], [SEED])
    shown = {"photo": (layout, layout.background)}
    shown |= {n: (sample.layout, sample.image) for n, sample in zip(edits, renders, strict=True)}
    shown["edit mode: door"] = (kept[0].layout, kept[0].image)
    maps = [paint(class_map(one, tuple(settings.data.classes))) for one, _ in shown.values()]
    rows = [maps, [image for _, image in shown.values()]]
    sheet = contact_sheet(rows, row_labels=["layout", "picture"], column_labels=list(shown), tile=TILE)
    save_sheet(DOCS / "editing_photo.jpg", sheet)


def exemplar(defect: str, number: int, rng: np.random.Generator) -> Exemplar:
    """A damaged piece of fabric."""
    _, image, foreground = draw_pair(CATEGORY, defect, size=SIZE, rng=rng)
    return Exemplar(image, foreground, CATEGORY, defect, f"{defect}/{number}.png")


def largest(found: Exemplar) -> RealPart:
    parts = split_parts(RealMask(found.source, found.defect, found.foreground))
    return max(parts, key=lambda part: int(part.foreground.sum()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs=2, metavar=("CONFIG", "PHOTO"))
    given = parser.parse_args().photos
    if given is None:
        main()
    else:
        edit_photo(Path(given[0]), given[1])
