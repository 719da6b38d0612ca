"""Reading and writing images outside the models: (H, W, C) uint8 or uint16, C 1 or 3, RGB order. No torch.

Decoding is OpenCV's, so that a pixel here is the pixel everybody else's tools see; Pillow only reads headers.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from fastsynth.types import check_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 256_000_000
"""Larger pictures are refused before they are decoded."""
PNG_SETTINGS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
"""Of surfaces with grain as small as trying all filters and looking for repeats at level 1, in half the time."""


def read_image(path: Path) -> np.ndarray:
    """The picture at `path`: (H, W, 1 or 3), uint8 or uint16. An alpha channel is dropped with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, truncated, CMYK, of an unsupported depth, or too large.
    """
    image = _decode(path)
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] == 4:
        warnings.warn("pictures with an alpha channel: it is dropped", stacklevel=1)
        image = image[..., :3]
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    check_image(image)
    return image


def read_mask(path: Path) -> np.ndarray:
    """The mask at `path` as an (H, W) bool foreground: zero is outside, the one other value is inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unreadable, or more than two values (soft or lossy masks would smear the labels).
    """
    mask = _decode(path)
    if mask.ndim == 3:
        mask = mask[..., :3].max(axis=2)
    low, high = mask.min(), mask.max()
    foreground: np.ndarray = mask > 0
    if low != high and (low > 0 or (mask[foreground] != high).any()):
        values = np.unique(mask)
        shown = ", ".join(str(v) for v in values[:6]) + (", …" if len(values) > 6 else "")
        raise ValueError(f"{path}: mask holds the values {shown}; wanted 0 and one other. Save it as PNG of 0 and 255")
    return foreground


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an image (H, W, C) or a mask (H, W). The same array always gives the same bytes."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 and image.shape[2] == 3 else image
    done, data = cv2.imencode(".png", bgr, PNG_SETTINGS)
    assert done
    return data.tobytes()


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the header alone. Raises ValueError when it is not an image."""
    width, height = _header(path)[1]
    return height, width


def to_uint8(image: np.ndarray, *, limits: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 for looking at: grey is repeated, 16 bit is stretched between `limits` (default: min, max)."""
    if image.dtype == np.uint16:
        low, high = limits if limits is not None else (float(image.min()), float(image.max()))
        scaled = (image.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))
        image = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def outline(
    image: np.ndarray, foreground: np.ndarray, *, color: tuple[int, int, int] = (255, 40, 40), thickness: int = 1
) -> np.ndarray:
    """`image` (H, W, 3) uint8 with the border of `foreground` (H, W) bool drawn just outside it."""
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    ring = cv2.dilate(foreground.astype(np.uint8), kernel).astype(bool) & ~foreground
    drawn = image.copy()
    drawn[ring] = color
    return drawn


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path) as header:
            return header.mode, header.size
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: not a readable image; wanted PNG, JPEG, BMP or TIFF") from error


def _decode(path: Path) -> np.ndarray:
    mode, (width, height) = _header(path)
    if mode == "CMYK":
        raise ValueError(f"{path}: CMYK picture; convert it to RGB or grey")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width}×{height} pixels; at most {MAX_PIXELS:,} are read")
    data = path.read_bytes()
    if _truncated(data):
        raise ValueError(f"{path}: file is truncated; copy it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{path}: cannot be decoded; the file is damaged")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: pixels are {image.dtype}; wanted 8 or 16 bit")
    return image


def _truncated(data: bytes) -> bool:
    """JPEG and PNG say where they end; OpenCV fills what is missing with grey and says nothing."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" not in data[-64:]
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in data[-64:]


Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked here
