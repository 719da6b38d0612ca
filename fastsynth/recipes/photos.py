"""General layout-to-photo renderers: trained on folders of photos and layouts, shown on layouts they have not seen."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar

from fastsynth.config import dump_config, load_config
from fastsynth.environment import reset_peak_memory, stage_peak_mb
from fastsynth.files import atomic_write, read_json, sha256_folder, sha256_json, write_json
from fastsynth.images import encode_png
from fastsynth.processes import process_index
from fastsynth.recipes.fast import find_device
from fastsynth.recipes.layout_training import train_layout_model
from fastsynth.recipes.trained import TRAINED
from fastsynth.sheets import save_sheet
from fastsynth.types import sample_seed
from generators.batches import Batch
from generators.importing import import_encoder, import_generator
from generators.layout_config import PhotoConfig
from generators.layout_model import LayoutModel
from generators.layout_warp import Warp
from generators.onnx_export import export_onnx
from generators.pairs import PairSource, Palette, find_pairs, read_instances, scale_layout
from generators.pix2pixhd import SMALLEST_BOTTLENECK, Pix2PixHDGenerator
from generators.sample_sheet import pixels, sample_sheet
from generators.style import StyleBank, StyleEncoder
from generators.style_bank import fit_bank

LOOKS = 3
"""Pictures per layout on a sheet."""
FREE = {"output", "device"}
"""Settings on which the weights do not depend."""
SHEET = "sheet.png"
MADE_FROM = "made_from"
"""In `training.json`: hash of what the model was trained with and on."""


def train_photos(config: PhotoConfig) -> Path:
    """Train, or go on with it; `model/` and `sheet.png` in the output folder; returns the sheet's path.

    Of several processes, which share each batch, the main one writes.

    Raises ValueError when the folder holds a model of other settings or pictures, or the pictures do not fit together.
    """
    output, model_folder = config.output, config.output / "model"
    source = open_pairs(config)
    _claim(config)
    made_from = sha256_json([config.model_dump(mode="json", exclude=FREE), source.sha256()])
    if (model_folder / TRAINED).is_file():
        if read_json(model_folder / TRAINED)[MADE_FROM] != made_from:
            raise ValueError(
                f"{model_folder} was trained on other pictures than those that are there now; choose another output, "
                "or delete the folder to train again"
            )
    else:
        reset_peak_memory()
        model, seconds = train_layout_model(
            config.renderer,
            source,
            output=output / "checkpoints",
            seed=config.seed,
            made_from=made_from,
            device=find_device(config.device).type,
            log=lambda values: _append(output / "log.jsonl", values),
            ignore=Palette.ignore_id,
            warp=Warp(config.data.warp_amplitude, config.data.warp_wavelength),
        )
        if process_index() == 0:
            model.save_pretrained(model_folder)
            cost = {"minutes": round(seconds / 60, 2), "peak_memory_mb": round(stage_peak_mb(), 1)}
            steps = config.renderer.training.max_train_steps
            write_json(model_folder / TRAINED, {"steps": steps, **cost, MADE_FROM: made_from})
    return draw_photo_sheet(config) if process_index() == 0 else output / SHEET


def draw_photo_sheet(config: PhotoConfig, *, columns: int = 8) -> Path:
    """`sheet.png`: held-out layouts, their photos, and several looks of each by the trained model."""
    model = load_photo_model(config)
    batch = open_pairs(config).samples(columns, shrink=1)
    path = config.output / SHEET
    save_sheet(path, sample_sheet(batch, {"look": draw_looks(model, batch, count=LOOKS, seed=config.seed)}))
    return path


def load_photo_model(config: PhotoConfig) -> LayoutModel:
    """What `train_photos` has trained, on the configured device.

    Raises FileNotFoundError when nothing is trained, ValueError when its classes are not those of `data.classes`.
    """
    disable_progress_bar()
    folder, names = config.output / "model", tuple(config.data.classes)
    model = LayoutModel.from_pretrained(folder, device=find_device(config.device))
    if model.class_names != names:
        raise ValueError(
            f"{folder} knows the classes {', '.join(model.class_names)}, data.classes has {', '.join(names)}; "
            "name the same ones in the same order"
        )
    return model


def model_sha256(config: PhotoConfig) -> str:
    """Hash of the weights alone that `load_photo_model` reads, as a run has it of its model."""
    return sha256_folder(config.output / "model", "*.safetensors")


def draw_photos(
    config: PhotoConfig, layouts: Path, output: Path, *, looks: int, instances: Path | None = None
) -> list[Path]:
    """PNG files `<stem>-<look>.png` of every layout of a folder, scaled as in training; returns their paths.

    instances: folder of ids as `data.instances`, by stem; None: connected regions. Raises FileNotFoundError when
    nothing is trained or there is no such folder; ValueError when it has no pictures, or one does not fit.
    """
    model = load_photo_model(config)
    palette, written = Palette(config.data.classes, ignore=config.data.ignore), []
    for number, files in enumerate(find_pairs(layouts, None, instances)):
        labels = palette.read(files.photo)
        ids = None if files.instances is None else read_instances(files.instances, size=labels.shape)
        maps = [
            torch.from_numpy(values.astype(np.int64))[None]
            for values in scale_layout(labels, ids, shorter=config.data.load_size)
        ]
        batch = Batch(maps[0], maps[1], torch.zeros(1, 3, *maps[0].shape[1:]))
        for look, pictures in enumerate(draw_looks(model, batch, count=looks, seed=sample_seed(config.seed, number))):
            path = output / f"{files.photo.stem}-{look + 1}.png"
            atomic_write(path, encode_png(pixels(pictures)[0]))
            written.append(path)
    return written


def export_photos(config: PhotoConfig, output: Path) -> LayoutModel:
    """Write the network that `train_photos` has trained as ONNX, see `generators.onnx_export`; returns its model.

    Raises FileNotFoundError when nothing is trained, ImportError when the extra `onnx` is missing, ValueError for
    another suffix.
    """
    if output.suffix.lower() != ".onnx":
        raise ValueError(f"{output}: the network is written as .onnx; name the file so")
    model = load_photo_model(config)
    atomic_write(output, export_onnx(model))
    return model


def draw_looks(model: LayoutModel, batch: Batch, *, count: int, seed: int) -> list[torch.Tensor]:
    """`count` pictures of every layout, each (B, 3, H, W); a CRN's outputs in turn, else other styles."""
    looks = []
    for look in range(count):
        output = look % model.num_outputs
        drawn = [
            model.draw(labels, instances, seed=sample_seed(seed, number, look), output=output)
            for number, (labels, instances) in enumerate(zip(batch.labels, batch.instances, strict=True))
        ]
        looks.append(torch.stack(drawn))
    return looks


def open_pairs(config: PhotoConfig) -> PairSource:
    """Raises FileNotFoundError or ValueError for folders that do not fit together."""
    data = config.data
    return PairSource(
        find_pairs(data.photos, data.layouts, data.instances),
        Palette(data.classes, ignore=data.ignore),
        load_size=data.load_size,
        crop_size=data.crop_size,
        flip=data.flip,
        held_out=data.held_out,
        seed=config.seed,
    )


def import_pix2pixhd(
    generator: Path,
    encoder: Path | None,
    output: Path,
    *,
    edges: bool,
    style_channels: int,
    photos: PhotoConfig | None = None,
) -> LayoutModel:
    """Published state dicts to a model folder at `output`.

    photos: names the classes, in the order of their ids, and the looks of its training photos become the style bank;
    without it classes are named by their ids, and there is no bank.

    Raises FileNotFoundError for a missing file; ValueError when `output` exists, naming the first tensor that does not
    fit, or when the photos do not fit the networks.
    """
    if output.exists():
        raise ValueError(f"{output} exists; choose a new folder, or delete this one")
    network = import_generator(generator, edges=edges, style_channels=style_channels)
    found = None if encoder is None else import_encoder(encoder)
    if found is not None and found.config["style_channels"] != style_channels:
        raise ValueError(
            f"{encoder} gives {found.config['style_channels']} style channels, the generator is read with "
            f"{style_channels}; set --style-channels"
        )
    names, bank = tuple(str(number) for number in range(network.config["num_classes"])), None
    if photos is not None:
        if found is None:
            raise ValueError("--photos without --encoder, which finds the looks of the photos; give that too")
        if len(photos.data.classes) != len(names):
            raise ValueError(
                f"{generator} knows {len(names)} classes, data.classes has {len(photos.data.classes)}; name every id "
                "from 0, in order"
            )
        names, bank = tuple(photos.data.classes), _bank_of_photos(found, network, photos)
    model = LayoutModel(
        network,
        names,
        style="encoder" if style_channels else "none",
        encoder=found,
        bank=bank,
        ignore=None if photos is None else Palette.ignore_id,
    )
    model.save_pretrained(output)
    return model


def _bank_of_photos(encoder: StyleEncoder, network: Pix2PixHDGenerator, config: PhotoConfig) -> StyleBank:
    """Raises ValueError when the configuration is of another renderer, or its crops do not fit the encoder."""
    if config.renderer.kind != "pix2pixhd":
        raise ValueError(f"renderer.kind is {config.renderer.kind}, which has no styles; set it to pix2pixhd")
    shrink, crop = 2 ** int(network.config["num_enhancers"]), config.data.crop_size
    multiple = shrink * 2 ** int(encoder.config["num_downsamples"])
    if crop % multiple or crop < SMALLEST_BOTTLENECK * multiple:
        raise ValueError(
            f"data.crop_size is {crop}; these networks need a multiple of {multiple} pixels, at least "
            f"{SMALLEST_BOTTLENECK * multiple}"
        )
    return fit_bank(
        encoder.to(find_device(config.device)),
        open_pairs(config),
        num_centres=config.renderer.network.num_centres,
        smallest_instance=config.renderer.network.smallest_instance,
        seed=config.seed,
        shrink=shrink,
        ignore=Palette.ignore_id,
    )


def _claim(config: PhotoConfig) -> None:
    """Write config.yaml, or refuse a folder whose model was begun with other settings."""
    path = config.output / "config.yaml"
    if path.is_file():
        stored = load_config(PhotoConfig, path)
        if stored.model_dump(exclude=FREE) != config.model_dump(exclude=FREE):
            raise ValueError(
                f"{config.output} is trained with the settings of its config.yaml, this configuration has others; "
                "choose another output, or delete the folder to train again"
            )
    atomic_write(path, dump_config(config).encode())


def _append(path: Path, values: dict[str, object]) -> None:
    """A line of the log, by the main process alone."""
    if process_index() > 0:
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, sort_keys=True) + "\n")
