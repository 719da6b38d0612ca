import cv2
import numpy as np
import pytest

from fastsynth.images import read_image
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet


def picture(height, width, value):
    return np.full((height, width, 3), (value, 0, 255 - value), np.uint8)


def pixels_of(sheet, value):
    return np.argwhere((sheet == (value, 0, 255 - value)).all(axis=2))


def test_every_picture_appears_in_its_own_cell():
    sheet = contact_sheet([[picture(20, 40, 50), picture(40, 40, 90)], [picture(8, 8, 130)]],
                          row_labels=["first", "second"], column_labels=["a", "b"], tile=60)  # fmt: skip
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    pixels = {value: pixels_of(sheet, value) for value in (50, 90, 130)}
    assert all(len(found) for found in pixels.values())
    assert pixels[50][:, 1].max() < pixels[90][:, 1].min()
    assert pixels[50][:, 0].max() < pixels[130][:, 0].min()


def test_a_row_has_one_scale_and_pictures_keep_their_aspect():
    sheet = contact_sheet([[picture(20, 40, 50), picture(40, 40, 90)]], row_labels=[""], tile=80)
    for value, area in ((50, 40 * 80), (90, 80 * 80)):
        assert len(pixels_of(sheet, value)) == area


def test_labels_are_drawn_and_long_ones_end_in_an_ellipsis_inside_the_margin():
    short = contact_sheet([[np.full((9, 9, 1), 255, np.uint8)]], row_labels=["crack"], tile=40)
    assert (short < 100).all(axis=2).any()
    long = contact_sheet([[np.full((9, 9, 1), 255, np.uint8)]], row_labels=["crack " * 50], tile=40)
    assert long.shape[1] < 160
    assert (long[:, -44:] == 255).all()


def test_sixteen_bit_and_colour_may_share_a_sheet():
    deep = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10, 1)
    sheet = contact_sheet([[deep, np.zeros((10, 10, 3), np.uint8)]], row_labels=["x"], tile=20)
    assert sheet.dtype == np.uint8


def test_wrong_label_counts_and_empty_sheets_are_refused():
    with pytest.raises(ValueError, match="1 rows and 1 columns got 2 row labels"):
        contact_sheet([[picture(9, 9, 0)]], row_labels=["a", "b"], tile=40)
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], row_labels=[], tile=40)


@pytest.mark.parametrize("size", [(200, 300), (30, 90), (20, 20)])
def test_a_defect_tile_shows_the_whole_defect(size):
    foreground = np.zeros(size, bool)
    foreground[5:15, 2:18] = True
    image = np.where(foreground, 200, 20).astype(np.uint8)[..., None]
    tile = defect_tile(image, foreground, size=96, outline=False)
    assert tile.shape == (96, 96, 3)
    scale = 96 / max(min(48, size[0]), min(48, size[1]))
    assert ((tile[..., 0] > 110) & (tile[..., 0] < 255)).sum() == pytest.approx(160 * scale**2, rel=0.1)


def test_the_outline_surrounds_the_defect_and_does_not_cover_it():
    foreground = cv2.circle(np.zeros((100, 100), np.uint8), (50, 50), 12, 1, cv2.FILLED) > 0
    image = np.full((100, 100, 1), 77, np.uint8)
    plain, lined = (defect_tile(image, foreground, size=128, outline=outline) for outline in (False, True))
    changed = (plain != lined).any(axis=2)
    assert changed.any()
    assert not changed[64, 64]
    assert (lined[changed] == (255, 40, 40)).all()


def test_an_empty_mask_has_no_tile():
    with pytest.raises(ValueError, match="mask is empty"):
        defect_tile(picture(60, 60, 0), np.zeros((60, 60), bool), size=64, outline=True)


def test_a_saved_sheet_reads_back(tmp_path):
    sheet = contact_sheet([[picture(20, 40, 50)]], row_labels=["a"], tile=64)
    save_sheet(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(read_image(tmp_path / "sheet.png"), sheet)
    save_sheet(tmp_path / "sheet.jpg", sheet)
    assert np.abs(read_image(tmp_path / "sheet.jpg").astype(int) - sheet).mean() < 3
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.jpeg, not '\.gif'"):
        save_sheet(tmp_path / "sheet.gif", sheet)
