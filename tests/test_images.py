import cv2
import numpy as np
import pytest
from PIL import Image

from fastsynth.images import MAX_PIXELS, encode_png, image_size, outline, read_image, read_mask, to_uint8


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save(path, picture: Image.Image, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_comes_back_as_it_was_written(tmp_path, rng, channels, dtype):
    image = rng.integers(0, np.iinfo(dtype).max + 1, (11, 7, channels), dtype)
    (tmp_path / "image.png").write_bytes(encode_png(image))
    assert np.array_equal(read_image(tmp_path / "image.png"), image)
    assert read_image(tmp_path / "image.png").dtype == dtype
    assert image_size(tmp_path / "image.png") == (11, 7)
    assert encode_png(image) == encode_png(image.copy())


@pytest.mark.parametrize("shape", [(96, 128), (96, 128, 3)])
@pytest.mark.parametrize("grain", [0, 3, 12])
def test_a_png_is_hardly_larger_than_with_all_filters_tried(rng, shape, grain):
    """Its settings are chosen for speed; OpenCV's own at the same level are the measure of size."""
    smooth = cv2.GaussianBlur(rng.normal(128, 60, shape), (0, 0), 6).reshape(shape)
    image = np.clip(smooth + rng.normal(0, grain, shape), 0, 255).astype(np.uint8)
    _, theirs = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert len(encode_png(image)) <= 1.03 * len(theirs)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_pixels_and_their_colour_order_are_those_of_pillow(tmp_path, rng, suffix, mode):
    pixels = rng.integers(0, 256, (9, 13, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    path = save(tmp_path / f"image.{suffix}", picture)
    assert np.array_equal(read_image(path).squeeze(), np.asarray(picture))


def test_a_jpeg_is_within_rounding_of_pillow(tmp_path, rng):
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (32, 48, 3), np.uint8), (0, 0), 4)
    path = save(tmp_path / "image.jpg", Image.fromarray(smooth), quality=95)
    theirs = np.asarray(Image.open(path)).astype(int)
    assert np.abs(read_image(path).astype(int) - theirs).max() <= 3


def test_sixteen_bit_grey_of_pillow_is_read_in_full_depth(tmp_path, rng):
    pixels = rng.integers(0, 65536, (8, 6), np.uint16)
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"image.{suffix}", Image.fromarray(pixels))
        image = read_image(path)
        assert image.dtype == np.uint16
        assert np.array_equal(image[..., 0], pixels)


def test_alpha_is_dropped_with_a_warning_and_the_colours_stay(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 5, 4), np.uint8)
    path = save(tmp_path / "image.png", Image.fromarray(pixels))
    with pytest.warns(UserWarning, match="alpha"):
        assert np.array_equal(read_image(path), pixels[..., :3])


def test_a_palette_is_resolved_to_its_colours(tmp_path, rng):
    picture = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).quantize(8)
    path = save(tmp_path / "image.png", picture)
    assert np.array_equal(read_image(path), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 90}), ("png", {})])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path, rng, suffix, options, kept):
    path = save(tmp_path / f"image.{suffix}", Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=rf"image\.{suffix}: file is truncated"):
        read_image(path)


def test_every_unreadable_file_is_named_with_the_reason(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    save(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8)))
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((4, 4), np.float32))
    for name, reason in {
        "text.png": "not a readable image",
        "empty.png": "not a readable image",
        "cmyk.jpg": "CMYK",
        "float.tif": "float32; wanted 8 or 16 bit",
    }.items():
        with pytest.raises(ValueError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_image(tmp_path / "absent.png")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    path = save(tmp_path / "huge.png", Image.new("1", (side, side)))
    with pytest.raises(ValueError, match=r"huge\.png: 16001×16001 pixels; at most 256,000,000"):
        read_image(path)


@pytest.mark.parametrize("inside", [1, 255])
def test_a_mask_of_zero_and_one_other_value_is_read_alike(tmp_path, rng, inside):
    foreground = rng.random((7, 9)) < 0.3
    (tmp_path / "mask.png").write_bytes(encode_png(foreground.astype(np.uint8) * inside))
    save(tmp_path / "rgb.png", Image.fromarray(foreground.astype(np.uint8) * inside).convert("RGB"))
    for name in ("mask.png", "rgb.png"):
        assert np.array_equal(read_mask(tmp_path / name), foreground)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_value_is_all_outside_or_all_inside(tmp_path, value):
    (tmp_path / "mask.png").write_bytes(encode_png(np.full((4, 4), value, np.uint8)))
    assert (read_mask(tmp_path / "mask.png") == (value > 0)).all()


def test_a_soft_mask_is_refused_with_its_values(tmp_path):
    (tmp_path / "soft.png").write_bytes(encode_png(np.array([[0, 100, 255]], np.uint8)))
    (tmp_path / "shifted.png").write_bytes(encode_png(np.array([[1, 255]], np.uint8)))
    with pytest.raises(ValueError, match=r"soft\.png: mask holds the values 0, 100, 255; wanted 0 and one other"):
        read_mask(tmp_path / "soft.png")
    with pytest.raises(ValueError, match=r"shifted\.png: mask holds the values 1, 255"):
        read_mask(tmp_path / "shifted.png")


def test_eight_bit_for_looking_keeps_eight_bit_and_stretches_sixteen():
    grey = np.array([[[7], [200]]], np.uint8)
    assert np.array_equal(to_uint8(grey), np.repeat(grey, 3, axis=2))
    deep = np.array([[[1000], [2000], [3000]]], np.uint16)
    assert to_uint8(deep)[0, :, 0].tolist() == [0, 128, 255]
    assert to_uint8(deep, limits=(0, 65535))[0, :, 0].tolist() == [4, 8, 12]


def test_an_outline_lies_just_outside_the_foreground():
    foreground = np.zeros((9, 9), bool)
    foreground[3:6, 3:6] = True
    drawn = outline(np.zeros((9, 9, 3), np.uint8), foreground, color=(255, 0, 0))
    touched = drawn.any(axis=2)
    assert not (touched & foreground).any()
    assert touched.sum() == 5 * 5 - 3 * 3
