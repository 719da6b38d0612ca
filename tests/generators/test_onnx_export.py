"""Networks as ONNX: another program gets from planes, as the file names them, the pictures that the model draws."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml

from generators.crn import CRN
from generators.layout_model import LayoutModel
from generators.pix2pixhd import Pix2PixHDGenerator

CLASSES = {"wall": 0, "door": 1, "window": 2}
SIZE = {"width": 8, "num_downsamples": 1, "num_blocks": 1, "num_enhancers": 1, "num_enhancer_blocks": 1}


def build(kind: str) -> LayoutModel:
    """With arbitrary weights everywhere: fresh tables of norms are 0, and would hide what they look up."""
    if kind == "crn":
        network: CRN | Pix2PixHDGenerator = CRN(3, widths=(16, 12, 8), num_outputs=2)
    else:
        network = Pix2PixHDGenerator(3, style_channels=2, **SIZE)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.eval().requires_grad_(False).parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return LayoutModel(network, tuple(CLASSES), style="none" if kind == "crn" else "encoder")


@pytest.fixture
def config(pair_folder, tmp_path):
    data = {"photos": str(pair_folder / "photos"), "classes": CLASSES, "load_size": 64, "crop_size": 64}
    values = {"output": str(tmp_path), "device": "cpu", "data": data, "renderer": {"kind": "pix2pixhd"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(("kind", "smallest"), [("crn", 16), ("pix2pixhd", 8)])
def test_onnxruntime_draws_what_the_model_draws_at_any_size(kind, smallest, call, config, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = build(kind)
    model.save_pretrained(tmp_path / "model")
    answer = call("photo", "export", config, tmp_path / "network.onnx")
    assert answer.code == 0, answer.err
    assert answer.out == f"{tmp_path / 'network.onnx'}: sides are multiples of 4, at least {smallest}\n"

    session = runtime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert (about["classes"], about["multiple"], about["smallest"]) == (list(CLASSES), 4, smallest)
    rng = np.random.default_rng(0)
    for height, width, count in ((smallest, smallest, 1), (40, 72, 2)):
        labels = rng.integers(3, size=(count, height // 4, width // 4)).repeat(4, axis=1).repeat(4, axis=2)
        styles = rng.uniform(-1, 1, (3, 2)).astype(np.float32)  # of an instance, which are the classes here
        planes = {f"class {name}": labels == number for name, number in CLASSES.items()}
        beyond = np.pad(labels, ((0, 0), (1, 1), (1, 1)), mode="edge")
        around = (beyond[:, :-2, 1:-1], beyond[:, 2:, 1:-1], beyond[:, 1:-1, :-2], beyond[:, 1:-1, 2:])
        planes["edges"] = np.any([labels != there for there in around], axis=0)
        planes |= {f"style {number}": styles[labels, number] for number in range(2)}
        layout = np.stack([planes[name] for name in about["planes"]], axis=1).astype(np.float32)
        (pictures,) = session.run(["pictures"], {"layout": layout})
        given = {number: torch.from_numpy(style) for number, style in enumerate(styles)}
        for number, ids in enumerate(torch.from_numpy(labels)):
            for output in range(model.num_outputs):
                drawn = model.draw(ids, ids, seed=0, output=output, styles=given if model.styled else None)
                found = pictures[number, output] if kind == "crn" else pictures[number]
                np.testing.assert_allclose(found.clip(-1, 1), drawn, atol=1e-4, rtol=0)


def test_what_cannot_be_exported_is_one_line(call, config, monkeypatch, tmp_path):
    untrained = call("photo", "export", config, tmp_path / "network.onnx")
    assert untrained.code == 2
    assert "no layout renderer" in untrained.complaint
    build("crn").save_pretrained(tmp_path / "model")
    named = call("photo", "export", config, tmp_path / "network.pt")
    assert named.code == 2
    assert "network.pt: the network is written as .onnx" in named.complaint
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    missing = call("photo", "export", config, tmp_path / "network.onnx")
    assert missing.code == 1
    assert "run: pip install 'fastsynth[onnx]'" in missing.complaint
    assert not (tmp_path / "network.onnx").exists()
