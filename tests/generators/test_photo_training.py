"""Renderers of whole pictures trained on folders: pixels without a class, a perceptual trunk that cannot be fetched."""

from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fastsynth.files import atomic_write
from fastsynth.images import encode_png, read_image
from fastsynth.recipes.photos import load_photo_model, open_pairs, train_photos
from generators.encoding import instance_edges
from generators.layout_config import PhotoConfig

BAND = 6
"""Rows at the top of every layout that have no class."""
RENDERERS = {
    "crn": {"network": {"widths": [8, 8, 8]}, "training": {}},
    "pix2pixhd": {
        "network": {
            "width": 8, "num_downsamples": 2, "num_blocks": 1, "encoder_width": 4, "encoder_downsamples": 2,
            "style_channels": 2,
        },
        "training": {"num_scales": 1},
    },
}  # fmt: skip


@pytest.fixture(params=RENDERERS)
def values(request, pair_folder, tmp_path) -> dict[str, Any]:
    """Of a configuration; the layouts have a white band."""
    for path in (pair_folder / "layouts").iterdir():
        layout = read_image(path).copy()
        layout[:BAND] = 255
        atomic_write(tmp_path / "layouts" / path.name, encode_png(layout))
    kind = request.param
    training = {"stage_steps": [3], "batch_size": 2, "trunk": "random", "calibration_steps": 1}
    return {
        "output": str(tmp_path / "photos"),
        "device": "cpu",
        "data": {
            "photos": str(pair_folder / "photos"), "layouts": str(tmp_path / "layouts"), "load_size": 32,
            "crop_size": 32, "held_out": 2, "ignore": [255, 255, 255],
            "classes": {"wall": [40, 40, 200], "door": [200, 60, 40], "window": [60, 190, 90]},
        },
        "renderer": {"kind": kind, **RENDERERS[kind], "training": {**training, **RENDERERS[kind]["training"]}},
    }  # fmt: skip


def test_pixels_without_a_class_are_in_no_plane_from_training_to_drawing(values):
    config = PhotoConfig.model_validate(values)
    train_photos(config)
    model, batch = load_photo_model(config), open_pairs(config).samples(1, shrink=1)
    labels, ids = batch.labels[0], batch.instances[0]
    assert (labels == 255).nonzero()[:, 0].unique().tolist() == [*range(BAND)]
    planes = [torch.stack([(labels == number).float() for number in range(3)])]
    if model.styled:
        styles = model.instance_styles(labels, ids, seed=0)
        assert torch.equal(styles[int(ids[0, 0])], model.bank.average)
        painted = np.array([[styles[number].tolist() for number in row] for row in ids.tolist()], np.float32)
        planes += [instance_edges(ids[None])[0], torch.from_numpy(painted).movedim(-1, 0)]
    with torch.no_grad():
        drawn = model.generator(torch.cat(planes)[None])[0]
    wanted = drawn if model.styled else drawn[1]
    torch.testing.assert_close(model.draw(labels, ids, seed=0, output=1), wanted.clamp(-1, 1))


def test_a_hub_that_cannot_be_reached_is_one_line(call, values, monkeypatch, tmp_path):
    """Through a proxy that is not there: the connection is refused at once, and nothing waits for an answer."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing was fetched before
    path = tmp_path / "photos.yaml"
    path.write_text(yaml.safe_dump(values))
    answer = call("photo", "train", path, "-s", "renderer.training.trunk=vgg19")
    assert answer.code == 1
    assert "VGG-19 could not be fetched" in answer.complaint
    assert "use the trunk 'offline'" in answer.complaint
