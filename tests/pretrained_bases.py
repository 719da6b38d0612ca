"""Tiny random pretrained bases, saved with the classes of diffusers and transformers; a few milliseconds per call."""

from pathlib import Path
from typing import Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    LDMTextToImagePipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from diffusers.utils.logging import disable_progress_bar
from transformers import BertTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from fastsynth.diffusion.pretrained.building import new_pretrained_pipeline
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline

Kind = Literal["sd", "sd2", "inpaint", "ldm"]
WIDTH, LENGTH, CELL, CHANNELS = 16, 40, 4, 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PAIRS = [("tile", "crack"), ("tile", "dent")]
SIZE = 32

logging.disable_progress_bar()
logging.set_verbosity_error()
disable_progress_bar()


def build(folder, **changes) -> PretrainedFASTPipeline:
    settings = {
        "pretrained": str(folder), "download": False, "revision": None, "autoencoder": None, "precision": "fp32",
        "prompt": "a photo of a {category} with {defect}", "normal_prompt": "a photo of a {category}",
        "tokens_per_category": 1, "tokens_per_defect": 2, "words": {}, "farm": "improved", "spatial_tokens": 0,
        "size": SIZE, "kernel": "exact", "spacing": "logsnr", "solver_order": 2, "seed": 0,
    }  # fmt: skip
    pipeline = new_pretrained_pipeline(PAIRS, **(settings | changes))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(count: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def masks(count: int, size: int = SIZE) -> torch.Tensor:
    masks = torch.zeros(count, 1, size, size)
    for i in range(count):
        masks[i, :, 4 + i : 15, 9:10] = 1
    return masks


def draw(pipeline: PretrainedFASTPipeline, count: int = 2, *, size: int = SIZE, **changes) -> torch.Tensor:
    defects = ["crack" if i % 2 else "dent" for i in range(count)]
    generators = [torch.Generator().manual_seed(7 + i) for i in range(count)]
    settings = {"num_inference_steps": 3, "generator": generators, "output_type": "pt"}
    return pipeline(pictures(count, size), masks(count, size), "tile", defects, **(settings | changes)).images


def save_base(folder: Path, kind: Kind) -> Path:
    """An SD 1.x (`sd`), SD 2.x (v-prediction), SD inpainting or LDM base with random weights; squares of 32 px."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, unet = tiny_vae(), _unet(9 if kind == "inpaint" else 4)
        if kind == "ldm":
            pipeline = LDMTextToImagePipeline(
                vqvae=vae, bert=_bert(), tokenizer=_bert_tokenizer(), unet=unet, scheduler=_scheduler("epsilon")
            )
        else:
            pipeline = StableDiffusionPipeline(
                vae=vae,
                text_encoder=_clip(),
                tokenizer=_clip_tokenizer(),
                unet=unet,
                scheduler=_scheduler("v_prediction" if kind == "sd2" else "epsilon"),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    pipeline.save_pretrained(folder)
    return folder


def tiny_vae() -> AutoencoderKL:
    """4 px per cell, 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.18215,
    ).eval()


def tiny_taesd() -> AutoencoderTiny:
    """4 px per cell, 4 latent channels."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=CHANNELS,
    ).eval()


def _unet(in_channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=CHANNELS,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=4,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _clip() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2 * len(LETTERS) + 2,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=52,
            eos_token_id=53,
            pad_token_id=53,
        )
    )


def _clip_tokenizer() -> CLIPTokenizer:
    """Letter by letter."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=LENGTH)


def _bert() -> LDMBertModel:
    return LDMBertModel(
        LDMBertConfig(
            vocab_size=70,
            max_position_embeddings=LENGTH,
            encoder_layers=1,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=8,
            d_model=WIDTH,
        )
    )


def _bert_tokenizer() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "photo", "with", "tile", "crack", "dent"]
    pieces = [*words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=LENGTH)
