"""Reading and writing images outside the models: (H, W, C) uint8 or uint16, C 1 or 3, RGB order. No torch.

Decoding is OpenCV's, so that a pixel here is the pixel everybody else's tools see; Pillow only reads headers.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from fastsynth.errors import SHOWN, shortened

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 256_000_000
"""Larger pictures are refused before they are decoded."""
MAX_BYTES = 2_200_000_000
"""Larger files are refused before they are read: as many as the largest picture of 16-bit colour with alpha needs."""
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What is recognised, whatever the suffix says; phones and browsers save WEBP under other names. Pillow has readers
of many more, one of which starts Ghostscript."""
PNG_SETTINGS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
"""Of surfaces with grain as small as trying all filters and looking for repeats at level 1, in half the time."""


def list_images(folder: Path) -> Iterator[Path]:
    """Pictures directly in `folder`, sorted; hidden files and other suffixes are ignored. None where it is missing."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
                yield path


def read_image(path: Path) -> np.ndarray:
    """The picture at `path`: (H, W, 1 or 3), uint8 or uint16. An alpha channel is dropped with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an image, truncated, CMYK, of an unsupported depth, or too large.
    """
    return parse_image(_read(path), str(path))


def parse_image(data: bytes, name: str) -> np.ndarray:
    """The same for a file's bytes; errors start with `name`."""
    image = _decode(data, name)
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[2] == 4:
        warnings.warn("pictures with an alpha channel: it is dropped", stacklevel=1)
        image = image[..., :3]
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    elif image.shape[2] != 1:
        raise ValueError(f"{name}: {image.shape[2]} channels; convert it to RGB or grey")
    return image


def read_undamaged(path: Path) -> np.ndarray:
    """`read_image`, and Pillow must decode the file too: OpenCV fills what a damaged one lacks and says nothing.

    Raises as `read_image` does.
    """
    image = read_image(path)
    with _pillow(path, str(path)) as picture:
        picture.load()
    return image


def read_indices(path: Path) -> np.ndarray | None:
    """The numbers that the pixels of a picture have in its colour table, (H, W, 1) uint8; None without a table.

    Raises FileNotFoundError, or ValueError when it is no image.
    """
    _require_file(path)
    with _pillow(path, str(path)) as picture:
        if picture.mode != "P" or picture.width * picture.height > MAX_PIXELS:
            return None
        return np.asarray(picture)[..., None]


def read_mask(path: Path) -> np.ndarray:
    """The mask at `path` as an (H, W) bool foreground: zero is outside, the one other value is inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unreadable, or more than two values (soft or lossy masks would smear the labels).
    """
    mask = _decode(_read(path), str(path))
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
    """Height and width from the header alone. Raises FileNotFoundError, or ValueError when it is not an image."""
    _require_file(path)
    with _pillow(path, str(path)) as header:
        return header.height, header.width


def page_count(path: Path) -> int:
    """Pictures in the file, without decoding them. Raises as `image_size` does."""
    _require_file(path)
    with _pillow(path, str(path)) as header:
        return getattr(header, "n_frames", 1)


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


@contextmanager
def _pillow(source: Path | BytesIO, name: str) -> Iterator[Image.Image]:
    """The picture with its header read. Raises ValueError for whatever Pillow raises, also inside the block."""
    try:
        with Image.open(source, formats=FORMATS) as picture:
            yield picture
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not a readable image; wanted PNG, JPEG, BMP or TIFF") from None
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # what its readers raise on damaged files is of every kind
        reason = shortened(" ".join(str(error).split()), SHOWN) or type(error).__name__
        raise ValueError(f"{name}: damaged image ({reason}); save it again or remove it") from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _read(path: Path) -> bytes:
    _require_file(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; of a picture at most {MAX_BYTES:,} are read")
    return path.read_bytes()


def _decode(data: bytes, name: str) -> np.ndarray:
    """What OpenCV makes of it: (H, W) or (H, W, C), uint8 or uint16, BGR. Nothing too large is decoded."""
    with _pillow(BytesIO(data), name) as header:
        mode, (width, height) = header.mode, header.size
    if mode == "CMYK":
        raise ValueError(f"{name}: CMYK picture; convert it to RGB or grey")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width}×{height} pixels; at most {MAX_PIXELS:,} are read")
    if _truncated(data):
        raise ValueError(f"{name}: file is truncated; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    # turned TIFFs: the one turns them when it decodes, the other does not
    if image is None or sorted(image.shape[:2]) != sorted((height, width)):
        raise ValueError(f"{name}: cannot be decoded; the file is damaged")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{name}: pixels are {image.dtype}; wanted 8 or 16 bit")
    return image


def _truncated(data: bytes) -> bool:
    """JPEG and PNG say where they end; OpenCV fills what is missing with grey and says nothing."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" not in data[-64:]
    return data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in data[-64:]


Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked here
