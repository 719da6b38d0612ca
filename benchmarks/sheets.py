"""Contact sheets of renderers on one trained run: python benchmarks/sheets.py RUN.yaml

docs/sheet_<data>.jpg: for every defect type a line of real test defects, then the same layouts with the same seeds by
copy-paste, by Perlin texture (DRAEM) and by the run's own renderer, as `fastsynth train RUN.yaml` has left it.
The first samples of the run are taken as they come, none is chosen.
"""

import argparse
from pathlib import Path

import numpy as np
from record import RESULTS

from fastsynth.config import load_config
from fastsynth.layouts.exemplar import ExemplarBank
from fastsynth.layouts.severity import with_severity
from fastsynth.recipes.layouts import draw_layouts
from fastsynth.recipes.rendering import load_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from fastsynth.types import Renderer, sample_seed
from generators.config import CopyPasteConfig, DRAEMConfig
from generators.reference import ReferenceRenderer, copy_paste, draem

DOCS = RESULTS.parents[1] / "docs"
TILE = 96


def draw(run: Run, *, columns: int) -> np.ndarray:
    """(H, W, 3) uint8: four lines per defect type, every crop around the same mask in the last three."""
    rows, labels = [], []
    by_name = renderers(run)
    for number, (category, defect) in enumerate(run.defect_pairs):
        unseen = [r for r in run.records("test", normal=False) if (r.category, r.defect) == (category, defect)]
        picks = np.linspace(0, len(unseen) - 1, min(columns, len(unseen))).round().astype(int)
        rows.append([defect_tile(*run.read(unseen[pick]), size=TILE, outline=False) for pick in picks])
        labels.append(f"{defect}, real")
        # the types take turns over a run's ids
        ids = [number + len(run.defect_pairs) * column for column in range(columns)]
        layouts, seeds = list(draw_layouts(run, ids)), [sample_seed(run.config.seed, i) for i in ids]
        for name, renderer in by_name.items():
            samples = [with_severity(sample) for sample in renderer.render(layouts, seeds)]
            rows.append([defect_tile(s.image, s.mask > 0, size=TILE, outline=False) for s in samples])
            labels.append(f"{defect}, {name}")
    return contact_sheet(rows, row_labels=labels, tile=TILE)


def renderers(run: Run) -> dict[str, Renderer]:
    """The references with their default settings, then the run's own."""
    pasted, perlin = CopyPasteConfig(), DRAEMConfig()
    paste = copy_paste(ExemplarBank(run.exemplars("train")), blend=pasted.blend)
    return {
        "copy-paste": ReferenceRenderer(pasted.kind, paste, context=pasted.context),
        "Perlin": ReferenceRenderer(perlin.kind, draem(opacity=perlin.opacity), context=perlin.context),
        run.config.renderer.kind: load_renderer(run),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A contact sheet: real, copy-paste, Perlin and the run's renderer.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    arguments = parser.parse_args()
    run = Run(load_config(RunConfig, arguments.config))
    path = DOCS / f"sheet_{run.config.data.root.name}.jpg"
    save_sheet(path, draw(run, columns=arguments.columns))
    print(path)


if __name__ == "__main__":
    main()
