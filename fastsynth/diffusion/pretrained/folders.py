"""Pretrained latent diffusion models from a folder or the hub: finding, checking and loading their parts.

A folder is what `save_pretrained` of a Stable Diffusion pipeline (CLIP text encoder; 1.x, 2.x, inpainting) or of
diffusers' LDMTextToImagePipeline (BERT text encoder) writes. Only `locate` may touch the network, and only for a
hub id with download=True.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel, VQModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from transformers import BertTokenizer, CLIPTextModel, CLIPTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.files import read_json

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = (
    "model_index.json, unet/, vae/ (or vqvae/), text_encoder/ (or bert/), tokenizer/ and scheduler/, "
    "as save_pretrained of a Stable Diffusion or LDM pipeline writes them"
)
AUTOENCODER_FILES = "config.json and diffusion_pytorch_model.safetensors of an AutoencoderKL or AutoencoderTiny"
Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny | VQModel


@dataclass(frozen=True)
class LatentBase:
    """The parts of a pretrained model, frozen, in evaluation mode.

    schedule: arguments of AIASScheduler that describe the noise the UNet was trained on.
    """

    unet: UNet2DConditionModel
    vae: Autoencoder
    text_encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    schedule: dict[str, Any]


def locate(pretrained: str, *, download: bool, revision: str | None = None, files: str = FILES) -> Path:
    """The folder of `pretrained`: itself, or the place in the Hugging Face cache of a hub id.

    files: what has to be in the folder, for the message.

    Raises FileNotFoundError, in one sentence that says which files to put where, if there is neither.
    """
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(pretrained):
        raise FileNotFoundError(f"{pretrained}: no such folder; put there {files}")
    try:
        return _from_hub(pretrained, download=download, revision=revision)
    except Exception as error:  # the hub's client has a dozen kinds, from HTTP to a missing cache entry
        remedy = "is it reachable and spelled right?" if download else "set base.download: true to fetch it,"
        raise FileNotFoundError(
            f"{pretrained}: no such folder, and not in the local Hugging Face cache ({type(error).__name__}); "
            f"{remedy} or on a machine without network put {files}, into a folder and give its path"
        ) from error


def _from_hub(name: str, *, download: bool, revision: str | None) -> Path:
    # safetensors only where there are some, no safety checker: the client of diffusers knows how to choose
    return Path(
        DiffusionPipeline.download(
            name,
            revision=revision,
            local_files_only=not download,
            safety_checker=None,
            feature_extractor=None,
        )
    )


def load_base(folder: Path, *, dtype: torch.dtype, autoencoder: Path | None = None) -> LatentBase:
    """Load and check the parts in `folder`, all with weights of `dtype`; `autoencoder` replaces its own.

    Raises FileNotFoundError for missing files, ValueError for a kind of model that FAST cannot stand on.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"{folder}: no saved latent diffusion model (model_index.json is missing); put {FILES}")
    classes = {name: entry[1] for name, entry in read_json(index).items() if isinstance(entry, list)}
    places = {
        "unet": "unet",
        "vae": "vae" if "vae" in classes else "vqvae",
        "text_encoder": "text_encoder" if "text_encoder" in classes else "bert",
        "tokenizer": "tokenizer",
        "scheduler": "scheduler",
    }
    for part, place in places.items():
        if classes.get(place) is None or not (folder / place).is_dir():
            raise FileNotFoundError(f"{folder}: its {part} is missing; put {FILES}")
    base = LatentBase(
        unet=_load_unet(folder / places["unet"], classes["unet"], dtype),
        vae=load_autoencoder(autoencoder or folder / places["vae"], dtype=dtype),
        text_encoder=_load_text_encoder(folder / places["text_encoder"], classes[places["text_encoder"]], dtype),
        tokenizer=_load_tokenizer(folder / "tokenizer", classes["tokenizer"]),
        schedule=_read_schedule(folder / "scheduler" / "scheduler_config.json"),
    )
    _check(base, folder)
    for module in (base.unet, base.vae, base.text_encoder):
        module.eval().requires_grad_(False)
    return base


def load_autoencoder(folder: Path, *, dtype: torch.dtype) -> Autoencoder:
    """Raises FileNotFoundError without a config.json, ValueError for another class of autoencoder."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no saved autoencoder; put there {AUTOENCODER_FILES}")
    name = read_json(folder / "config.json").get("_class_name")
    match name:
        case "AutoencoderKL":
            return _open(AutoencoderKL, folder, dtype)
        case "AutoencoderTiny":
            return _open(AutoencoderTiny, folder, dtype)
        case "VQModel":
            return _open(VQModel, folder, dtype)
        case _:
            raise ValueError(f"{folder}: the autoencoder is a {name}; use an AutoencoderKL, AutoencoderTiny or VQModel")


def base_scheduler(base: LatentBase, *, kernel: str, spacing: str, solver_order: int) -> AIASScheduler:
    """AIAS on the noise schedule the base was trained with."""
    return AIASScheduler(**base.schedule, kernel=kernel, spacing=spacing, solver_order=solver_order)


def _load_unet(folder: Path, name: str, dtype: torch.dtype) -> UNet2DConditionModel:
    if name != "UNet2DConditionModel":
        raise ValueError(f"{folder}: the denoiser is a {name}; use a base with a UNet2DConditionModel")
    return _open(UNet2DConditionModel, folder, dtype)


def _load_text_encoder(folder: Path, name: str, dtype: torch.dtype) -> PreTrainedModel:
    match name:
        case "CLIPTextModel":
            return _open(CLIPTextModel, folder, dtype)
        case "LDMBertModel":
            return _open(LDMBertModel, folder, dtype)
        case _:
            raise ValueError(f"{folder}: the text encoder is a {name}; use a base with a CLIPTextModel or LDMBertModel")


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    match name.removesuffix("Fast"):
        case "CLIPTokenizer":
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        case "BertTokenizer":
            return BertTokenizer.from_pretrained(folder, local_files_only=True)
        case _:
            raise ValueError(f"{folder}: the tokenizer is a {name}; use a base with a CLIPTokenizer or BertTokenizer")


def _open(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """`kind` from its folder, never from the network. Raises FileNotFoundError when files are missing."""
    try:
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"{folder}: no complete {kind.__name__} ({reason}); copy its files again") from error


def _read_schedule(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError if there is no such file, ValueError for a schedule AIAS does not know."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; put {FILES}")
    config = read_json(path)
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path}: betas of its own or rescaled to zero SNR; use a base with a plain schedule")
    defaults = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    schedule = {key: config.get(key, default) for key, default in defaults.items()}
    schedule["prediction_type"] = config.get("prediction_type", "epsilon")
    AIASScheduler(**schedule)  # refuses what it cannot sample
    return schedule


def _check(base: LatentBase, folder: Path) -> None:
    unet, channels = base.unet.config, int(base.vae.config["latent_channels"])
    if unet["in_channels"] not in (channels, 2 * channels + 1) or unet["out_channels"] != channels:
        raise ValueError(
            f"{folder}: the UNet maps {unet['in_channels']} to {unet['out_channels']} channels, the autoencoder has "
            f"{channels} latent channels; use a text-to-image base ({channels} to {channels}) or an inpainting base "
            f"({2 * channels + 1} to {channels})"
        )
    width = base.text_encoder.get_input_embeddings().embedding_dim
    if unet["cross_attention_dim"] != width or unet.get("addition_embed_type") is not None:
        raise ValueError(
            f"{folder}: the UNet wants text of width {unet['cross_attention_dim']} and "
            f"{unet.get('addition_embed_type') or 'nothing'} besides, the text encoder gives {width}; "
            "use a Stable Diffusion 1.x or 2.x or an LDM base (SDXL is not one of them)"
        )
