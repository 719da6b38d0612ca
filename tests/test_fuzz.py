"""Mutated inputs: every reader gives a value, or one clean error; nothing else is raised and nothing hangs."""

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fastsynth.cli_options import read_config
from fastsynth.config import dump_config
from fastsynth.data.imports.formats import import_annotations
from fastsynth.images import MAX_PIXELS, read_image, read_mask, read_undamaged

pytestmark = pytest.mark.filterwarnings("ignore")

REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=5000,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FEWER = settings(REPEATABLE, max_examples=30)


def outcome(read, *arguments, lines: int = 1, **options):
    """The value, or None for a clean error of at most `lines` lines."""
    try:
        return read(*arguments, **options)
    except (ValueError, OSError) as error:
        text = str(error)
        assert text
        assert len(text.splitlines()) <= lines, text
        assert len(text) < 1500 * lines
        return None


def mutated(data: bytes, seed: int) -> bytes:
    """`data` after a few changes: bytes set, cut out, doubled or put in, the end cut off."""
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(changed) + 1), rng.choice([1, 2, 4, 16])
        match rng.randrange(5):
            case 0:
                changed[at : at + length] = rng.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                changed[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
            case 4 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def pictures() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    colour = Image.fromarray(pixels)
    grey16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    kinds = {
        "png": (colour, "PNG", {}),
        "palette": (colour.quantize(8), "PNG", {}),
        "alpha": (colour.convert("RGBA"), "PNG", {}),
        "mask": (colour.convert("1"), "PNG", {}),
        "png 16 bit": (grey16, "PNG", {}),
        "jpeg": (colour, "JPEG", {}),
        "bmp": (colour, "BMP", {}),
        "tiff": (colour, "TIFF", {}),
        "tiff lzw": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "tiff 16 bit": (grey16, "TIFF", {}),
    }
    made = {}
    for name, (picture, kind, options) in kinds.items():
        file = io.BytesIO()
        picture.save(file, kind, **options)
        made[name] = file.getvalue()
    return made


PICTURES = pictures()


@pytest.mark.parametrize("kind", PICTURES)
@REPEATABLE
@given(seed=st.integers(0, 2**32))
def test_a_mutated_picture_is_read_or_refused(tmp_path, kind, seed):
    path = tmp_path / "picture.png"
    path.write_bytes(mutated(PICTURES[kind], seed))
    image, undamaged, mask = (outcome(read, path) for read in (read_image, read_undamaged, read_mask))
    assert image is None or (image.dtype in (np.uint8, np.uint16) and image.ndim == 3 and image.shape[2] in (1, 3))
    assert undamaged is None or np.array_equal(undamaged, image)
    assert mask is None or (mask.dtype == bool and mask.shape == image.shape[:2])


def test_every_size_in_the_header_of_a_bmp_is_read_or_refused(tmp_path):
    path = tmp_path / "picture.bmp"
    for width in (0, 1, 10, 2**20, 2**31 - 1, 2**32 - 1):
        for height in (0, 12, 2**20, 2**31 - 1, 2**31, 2**32 - 1):
            data = bytearray(PICTURES["bmp"])
            data[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
            path.write_bytes(data)
            image = outcome(read_image, path)
            assert image is None or image.size <= 3 * MAX_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_a_picture_over_the_limit_is_refused_by_every_format_with_the_limit(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("fastsynth.images.MAX_PIXELS", 100)
    path = tmp_path / "picture.png"
    Image.new("L", (10, 11)).save(path, kind)
    for read in (read_image, read_mask, read_undamaged):
        with pytest.raises(ValueError, match="10×11 pixels; at most 100 are read"):
            read(path)


BASE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | LEAVES, inner, max_size=3)
)


def keys(values: dict, prefix: str = "") -> list[str]:
    """Dotted names of everything in `values`."""
    found = []
    for name, value in values.items():
        found += [prefix + name, *(keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
    return found


NASTY = ["!!int ''", "0b_", "9" * 5000, "[" * 2000, "&a [*a]", "2001-99-99", '"a\\0b"']
KEYS = keys(yaml.safe_load(BASE.read_text()))


def assert_reads_back(config, folder: Path) -> None:
    """What is accepted means the same when it is written down and read again."""
    if config is not None:
        path = folder / "again.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert read_config(path, []) == config


@FEWER
@given(VALUES)
def test_a_config_of_any_structure_is_read_or_refused(tmp_path, value):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump(value, allow_unicode=True), encoding="utf-8", errors="replace")
    assert outcome(read_config, path, [], lines=21) is None, "there is always the folder of the data to be named"


@FEWER
@given(st.sampled_from(KEYS), VALUES | st.sampled_from(NASTY))
def test_any_value_at_a_known_key_is_read_or_refused(tmp_path, key, value):
    text = value if isinstance(value, str) else yaml.dump(value, default_flow_style=True)
    assert_reads_back(outcome(read_config, BASE, [f"{key}={text}"], lines=21), tmp_path)


@FEWER
@given(st.binary(max_size=60) | st.integers(0, 2**32).map(lambda seed: mutated(BASE.read_bytes(), seed)))
def test_a_config_of_any_bytes_is_read_or_refused(tmp_path, data):
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    assert_reads_back(outcome(read_config, path, [], lines=21), tmp_path)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(PICTURES["png"])
    return folder


COCO = {
    "categories": [{"id": 1, "name": "crack"}],
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 8, 1, 8, 9]]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [12, 10], "counts": [30, 60, 30]}},
    ],
}


def places(value, path=()):
    """Paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([10**400, 1e308, ".", "", "combined", "good", "../a.png", "\ud800", "a\0", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
)  # fmt: skip


def imported(file: Path, images: Path, kind: str, number: int):
    output = images.parent / f"{number}"
    done = outcome(import_annotations, file, output, kind=kind, images=images)
    assert output.exists() == (done is not None)
    assert done is None or sum(done) == sum(1 for _ in output.glob("t*/*/*"))
    return done


RUNNING = iter(range(10**6))
POSSIBLE = (None, (0, 1), (1, 0))
"""Refused, or the one picture there is, with or without a defect."""


@REPEATABLE
@given(st.sampled_from(places(COCO)), JSON)
def test_any_value_anywhere_in_a_coco_file_is_imported_or_refused(images, place, value):
    content = json.loads(json.dumps(COCO))
    if place:
        node = content
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
    else:
        content = value
    file = images.parent / "a.json"
    file.write_text(json.dumps(content))
    assert imported(file, images, "coco", next(RUNNING)) in POSSIBLE


@REPEATABLE
@given(st.integers(0, 2**32))
def test_a_coco_file_of_mutated_bytes_is_imported_or_refused(images, seed):
    file = images.parent / "a.json"
    file.write_bytes(mutated(json.dumps(COCO).encode(), seed))
    assert imported(file, images, "coco", next(RUNNING)) in POSSIBLE


def cvat_zip(labels: bytes, listed: bytes, mask: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("labelmap.txt", labels)
        archive.writestr("ImageSets/Segmentation/default.txt", listed)
        archive.writestr("SegmentationClass/a.png", mask)
    return file.getvalue()


def cvat_parts() -> tuple[bytes, bytes, bytes]:
    mask = np.zeros((12, 10, 3), np.uint8)
    mask[3:6, 2:7] = 128, 0, 0
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return b"background:0,0,0::\ncrack:128,0,0::\n", b"a\n", file.getvalue()


@pytest.mark.parametrize("what", ["zip", "labels", "list", "mask"])
@REPEATABLE
@given(seed=st.integers(0, 2**32))
def test_a_mutated_cvat_zip_is_imported_or_refused(images, what, seed):
    parts = dict(zip(("labels", "list", "mask"), cvat_parts(), strict=True))
    if what in parts:
        parts[what] = mutated(parts[what], seed)
    data = cvat_zip(*parts.values())
    file = images.parent / "a.zip"
    file.write_bytes(mutated(data, seed) if what == "zip" else data)
    assert imported(file, images, "cvat", next(RUNNING)) in POSSIBLE


def test_what_is_not_mutated_is_imported(images):
    file = images.parent / "a"
    file.write_text(json.dumps(COCO))
    assert imported(file, images, "coco", 1) == (0, 1)
    file.write_bytes(cvat_zip(*cvat_parts()))
    assert imported(file, images, "cvat", 2) == (0, 1)


def test_a_list_that_swells_when_unpacked_is_refused_with_the_limit(images):
    file = images.parent / "a.zip"
    labels, _, mask = cvat_parts()
    file.write_bytes(cvat_zip(labels, b"\n" * 6_000_000, mask))
    with pytest.raises(ValueError, match=r"6,000,000 bytes; at most 5,000,000 are read"):
        import_annotations(file, images.parent / "out", kind="cvat", images=images)


@pytest.mark.parametrize("name", ["", ".", "good", "combined", "a/b", ".hidden", "x" * 300])
def test_a_label_that_cannot_be_a_defect_folder_is_refused(images, name):
    content = {**COCO, "categories": [{"id": 1, "name": name}]}
    file = images.parent / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot be the name of a defect folder; rename the label"):
        import_annotations(file, images.parent / "out", kind="coco", images=images)


def test_a_polygon_of_a_million_points_is_read_and_one_that_crosses_too_many_rows_is_refused(images):
    from fastsynth.data.export.shapes import fill_polygon

    angle = np.linspace(0, 2 * np.pi, 1_000_000)
    disc = fill_polygon(np.stack([50 + 40 * np.cos(angle), 50 + 40 * np.sin(angle)], axis=1), size=(100, 100))
    y, x = np.mgrid[:100, :100] + 0.5
    assert (disc == ((x - 50) ** 2 + (y - 50) ** 2 < 1600)).mean() > 0.999
    zigzag = np.stack([np.arange(100_000) % 7, np.arange(100_000) % 2 * 1000], axis=1).astype(float)
    with pytest.raises(ValueError, match=r"cross 100,000,000 rows; at most 20,000,000"):
        fill_polygon(zigzag, size=(1000, 10))
    with pytest.raises(ValueError, match="beyond ±1,000,000"):
        fill_polygon(np.array([[0, 0], [1e308, 0], [0, 1e308]]), size=(10, 10))
