"""Segmenters: any architecture of segmentation-models-pytorch (smp) with one output channel, the defect's logit.

A segmenter's folder is smp's own `save_pretrained` folder with `segmenter.json` (the threshold) and
`augmentation.json` (what it was trained with) beside the weights.
"""

import contextlib
import difflib
import inspect
import io
from dataclasses import dataclass
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn

from fastsynth.augment import A, save_augmentation
from fastsynth.files import read_json, write_json
from fastsynth.offline import ENCODER_NAME, offline_state_dict

STRIDE = 32
"""Sides of what the network sees are multiples of this."""
THRESHOLD_FILE = "segmenter.json"
AUGMENTATION_FILE = "augmentation.json"


@dataclass(frozen=True, eq=False)
class Segmenter:
    """model: (B, 3, h, w) float in [-1, 1] → (B, 1, h, w) logits. threshold: foreground where probability ≥ it."""

    model: nn.Module
    threshold: float


def build_segmenter(
    *,
    arch: str,
    encoder_name: str,
    encoder_weights: str | None,
    decoder_channels: tuple[int, ...] | None,
    seed: int,
) -> SegmentationModel:
    """A network that maps (B, 3, h, w) float in [-1, 1] to (B, 1, h, w) logits.

    encoder_weights: "offline" (the package behind the extra of that name), "imagenet" (smp's hub weights), None.
    seed: of the random part of the weights.

    Raises ValueError for an unknown architecture or encoder, or `decoder_channels` the architecture does not take.
    """
    kind = _architecture(arch)
    if "decoder_channels" not in inspect.signature(kind.__init__).parameters and decoder_channels is not None:
        raise ValueError(f"{kind.__name__} takes no decoder_channels; set decoder_channels to null")
    offline = encoder_weights == "offline"
    widths = {} if decoder_channels is None else {"decoder_channels": decoder_channels}
    # the initialisers of torch draw from the global state: lend it to them and put it back
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = kind(
                encoder_name=encoder_name,
                encoder_weights=None if offline else encoder_weights,
                in_channels=3,
                classes=1,
                **widths,
            )
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{kind.__name__} with encoder {encoder_name!r} and decoder_channels {decoder_channels}: {error}"
            ) from error
    if offline:
        load_offline_weights(model.encoder, encoder_name)
    return model


def load_offline_weights(encoder: nn.Module, encoder_name: str) -> None:
    """ImageNet weights of the extra `offline` into smp's encoder, every tensor of it.

    Raises ValueError for any other encoder than `tu-tf_efficientnet_lite0`.
    """
    if encoder_name != ENCODER_NAME:
        raise ValueError(f"encoder_weights 'offline' are those of {ENCODER_NAME}, got {encoder_name}; use null")
    tensors = offline_state_dict()
    # smp keeps the trunk under `model.`, without the classifier
    encoder.load_state_dict({name: tensors[name.removeprefix("model.")] for name in encoder.state_dict()})


def save_segmenter(model: SegmentationModel, folder: Path, *, threshold: float, augmentation: A.Compose) -> None:
    model.save_pretrained(folder)
    save_augmentation(augmentation, folder / AUGMENTATION_FILE)
    write_json(folder / THRESHOLD_FILE, {"threshold": threshold})


def load_segmenter(folder: Path) -> Segmenter:
    """What `save_segmenter` wrote, in evaluation mode. Raises FileNotFoundError when it is not such a folder."""
    if not (folder / THRESHOLD_FILE).is_file():
        raise FileNotFoundError(f"{folder}: no segmenter here ({THRESHOLD_FILE} is missing); train one first")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does, and stdout may be somebody's JSON
        # the file holds all weights: without this smp would fetch the encoder's once more
        model = smp.from_pretrained(folder, encoder_weights=None)
    return Segmenter(model.eval(), float(read_json(folder / THRESHOLD_FILE)["threshold"]))


def _architecture(name: str) -> type[SegmentationModel]:
    kinds = {kind.__name__.lower(): kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if name.lower() not in kinds:
        names = [kind.__name__ for kind in kinds.values()]
        close = difflib.get_close_matches(name, names, n=1) or [", ".join(names)]
        raise ValueError(f"unknown architecture {name!r}; did you mean {close[0]}?")
    return kinds[name.lower()]
