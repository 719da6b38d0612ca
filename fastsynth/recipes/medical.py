"""Medical images into the tool's own tree, with a sheet that shows at once whether axis, window and marks are right."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastsynth.data.medical.importing import Imported, import_volumes
from fastsynth.data.medical.sidecar import read_places
from fastsynth.data.medical.volume import Format, Record, windowed
from fastsynth.images import outline, read_image, read_mask
from fastsynth.sheets import contact_sheet, save_sheet

PREVIEW = "preview.png"
ROWS, COLUMNS, TILE = 4, 6, 160


def import_with_preview(
    folder: Path,
    output: Path,
    *,
    kind: Format,
    masks: Path | None,
    patient: str | None,
    axis: int,
    labels: Mapping[int, str] | None,
) -> Imported:
    """`importing.import_volumes`, which see, and `preview.png` in the new folder."""
    found = import_volumes(folder, output, kind=kind, masks=masks, patient=patient, axis=axis, labels=labels)
    draw_preview(output)
    return found


def draw_preview(root: Path) -> Path:
    """Slices of the first volumes as a viewer shows them, marked ones first, with the outlines of their marks."""
    volumes: dict[str, list[str]] = {}
    places = read_places(root)
    for picture, place in places.items():
        volumes.setdefault(place.name, []).append(picture)
    rows = {}
    for name, pictures in list(volumes.items())[:ROWS]:
        marked = [picture for picture in pictures if picture.startswith("test/")]
        chosen = sorted({*_spread(marked, COLUMNS // 2), *_spread(pictures, COLUMNS)})[:COLUMNS]
        rows[name] = [_shown(root, picture, places[picture].record, places[picture].index) for picture in chosen]
    path = root / PREVIEW
    save_sheet(path, contact_sheet(list(rows.values()), row_labels=list(rows), tile=TILE))
    return path


def _shown(root: Path, picture: str, record: Record, index: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    values = record.measured(read_image(root / picture)[..., 0], index)
    low, high = np.percentile(values, (1, 99))
    window = record.window or ((low + high) / 2, max(high - low, 1.0))
    shown = np.repeat(windowed(values, window, inverted=record.coding.sign < 0)[..., None], 3, axis=2)
    part, defect, file = picture.split("/") if picture.count("/") == 2 else ("", "", "")
    if part != "test":
        return shown
    return outline(shown, read_mask(root / f"ground_truth/{defect}/{Path(file).stem}_mask.png"))


def _spread(items: list[str], count: int) -> list[str]:
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[pick] for pick in picks]
