"""A trained layout renderer's network as one ONNX file, for programs without torch.

    input   "layout"     (B, C, H, W) float32, as `encoding.encode_layout` gives it
    output  "pictures"   (B, 3, H, W) in [-1, 1] of pix2pixHD; (B, k, 3, H, W) of CRN, not clamped

B, H and W are free; H and W are multiples of `LayoutModel.multiple` and at least `LayoutModel.smallest`, and whoever
calls pads to that. Encoding a layout, choosing styles and cutting the padding off again stay outside.
"""

import importlib.util
import json

import torch

from generators.layout_model import LayoutModel

OPSET = 20
LARGEST = 65_536
"""Pixels along a side, and pictures in a batch."""


def export_onnx(model: LayoutModel) -> bytes:
    """The file. Its metadata, JSON values, say what `layout` holds:

    planes: names of the C planes in their order: "class <name>" …, "edges", "style 0" ….
    classes: the class names by id. multiple, smallest: of the sides, in pixels.

    model: draws whole pictures. Raises ImportError when the extra `onnx` is missing.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError("writing ONNX needs onnx and onnxscript; run: pip install 'fastsynth[onnx]'")
    network, multiple = model.generator, model.multiple
    fewest, most = model.smallest // multiple, LARGEST // multiple
    sides = [multiple * torch.export.Dim(name, min=fewest, max=most) for name in ("h", "w")]
    batch = torch.export.Dim("B", min=1, max=LARGEST)
    # any size but the smallest, at which sizes could be taken for constants
    example = torch.zeros(2, network.in_channels, 2 * model.smallest, 3 * model.smallest, device=network.device)
    with torch.enable_grad():  # without, the convolutions ask how large the map is, to work in bands
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={"layout": {0: batch, 2: sides[0], 3: sides[1]}},
            input_names=["layout"],
            output_names=["pictures"],
            verbose=False,
        )
    assert program is not None
    about = {
        "planes": plane_names(model),
        "classes": model.class_names,
        "multiple": multiple,
        "smallest": model.smallest,
    }
    program.model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in about.items()})
    written: bytes = program.model_proto.SerializeToString()
    return written


def plane_names(model: LayoutModel) -> list[str]:
    """What each plane of the input is, in the order of `encode_layout`. model: draws whole pictures."""
    config = model.generator.config
    edges = ["edges"] if config["edges"] else []
    styles = [f"style {number}" for number in range(config["style_channels"])]
    names = [*(f"class {name}" for name in model.class_names), *edges, *styles]
    assert len(names) == model.generator.in_channels, "it fills holes"
    return names
