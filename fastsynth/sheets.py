"""Contact sheets: many small pictures with labels in one image, for looking at. No torch."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastsynth import images
from fastsynth.files import atomic_write

MIN_CROP = 48
"""Pixels a defect tile shows at least, so that a pit of 5 px is seen in its surroundings."""
FONT_SIZE = 14
GAP = 4
"""Pixels between tiles."""
PAPER, INK = 255, (20, 20, 20)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    tile: int,
) -> np.ndarray:
    """Rows of pictures, one label to the left of each and, if given, one above each column.

    rows: images (H, W, 1 or 3) uint8 or uint16, of any sizes; rows may differ in length.
    tile: side of a cell in pixels. Pictures keep their aspect, and within a row one scale, so they can be compared.
    Returns (H, W, 3) uint8. Raises ValueError when there is no picture or the labels do not match the rows.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ValueError("a contact sheet needs at least one picture; got none")
    if len(row_labels) != len(rows) or (column_labels is not None and len(column_labels) != columns):
        raise ValueError(
            f"{len(rows)} rows and {columns} columns got {len(row_labels)} row labels and "
            f"{len(column_labels or [])} column labels; give one each"
        )
    widest = int(np.ceil(max(_font().getlength(label) for label in row_labels)))
    left = min(widest, 2 * tile) + 2 * GAP
    top = FONT_SIZE + 2 * GAP if column_labels is not None else GAP
    cell = tile + GAP
    sheet = np.full((top + len(rows) * cell, left + columns * cell, 3), PAPER, np.uint8)
    for i, row in enumerate(rows):
        longest = max((max(picture.shape[:2]) for picture in row), default=1)
        for j, picture in enumerate(row):
            y, x = top + i * cell, left + j * cell
            sheet[y : y + tile, x : x + tile] = _letterbox(images.to_uint8(picture), tile, scale=tile / longest)
    drawing = Image.fromarray(sheet)
    pen = ImageDraw.Draw(drawing)
    for i, label in enumerate(row_labels):
        middle = top + i * cell + tile // 2
        pen.text((GAP, middle), _shortened(label, left - 2 * GAP), fill=INK, font=_font(), anchor="lm")
    for j, label in enumerate(column_labels or []):
        middle = left + j * cell + tile // 2
        pen.text((middle, top // 2), _shortened(label, tile), fill=INK, font=_font(), anchor="mm")
    return np.array(drawing)


def defect_tile(
    image: np.ndarray, foreground: np.ndarray, *, size: int, context: float = 2.0, outline: bool
) -> np.ndarray:
    """The surroundings of a defect: (size, size, 3) uint8.

    image: (H, W, 1 or 3) uint8 or uint16. foreground: (H, W) bool, not empty.
    The crop is a square of `context` times the longer side of the foreground's box, at least MIN_CROP px, moved
    into the image; what does not fit is padded. outline: draw the border of the foreground.
    Raises ValueError when the foreground is empty.
    """
    if not foreground.any():
        raise ValueError("the mask is empty, there is no defect to show; pass the whole image instead")
    left, top, width, height = cv2.boundingRect(foreground.astype(np.uint8))
    side = max(MIN_CROP, round(context * max(width, height)))
    rows = _window(top + height / 2, side, foreground.shape[0])
    columns = _window(left + width / 2, side, foreground.shape[1])
    crop = images.to_uint8(image[rows, columns], limits=(float(image.min()), float(image.max())))
    scale = size / max(crop.shape[:2])
    tile = _letterbox(crop, size, scale=scale)
    if not outline:
        return tile
    shown = np.repeat(foreground[rows, columns, None].astype(np.uint8) * 255, 3, axis=2)
    return images.outline(tile, _letterbox(shown, size, scale=scale, paper=0)[..., 0] > 127)


def save_sheet(path: Path, sheet: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG or JPEG, by the suffix. Raises ValueError for any other suffix."""
    match path.suffix.lower():
        case ".png":
            atomic_write(path, images.encode_png(sheet))
        case ".jpg" | ".jpeg":
            done, data = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            assert done
            atomic_write(path, data.tobytes())
        case suffix:
            raise ValueError(f"{path}: a sheet is written as .png, .jpg or .jpeg, not {suffix or 'without suffix'!r}")


def _window(middle: float, side: int, available: int) -> slice:
    """`side` pixels around `middle`, moved into 0..available; all of it when there is less."""
    side = min(side, available)
    start = int(np.clip(round(middle - side / 2), 0, available - side))
    return slice(start, start + side)


def _letterbox(picture: np.ndarray, side: int, *, scale: float, paper: int = PAPER) -> np.ndarray:
    """`picture` (H, W, 3) uint8 scaled and centred on a square of `side` pixels."""
    height, width = (min(side, max(1, round(extent * scale))) for extent in picture.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, (width, height), interpolation=interpolation)
    square = np.full((side, side, 3), paper, np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = scaled
    return square


def _shortened(label: str, width: int) -> str:
    """`label`, or as much of it as fits into `width` pixels, with an ellipsis."""
    if _font().getlength(label) <= width:
        return label
    while label and _font().getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"


@cache
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib brings a font file with many scripts, so the text looks alike on every machine
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
