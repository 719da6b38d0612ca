"""FAST on a pretrained base in a run's folder: what differs from the compact one of `recipes.fast`."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.utils import logging

from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.pretrained.building import new_pretrained_pipeline, open_pretrained_pipeline
from fastsynth.diffusion.pretrained.config import PretrainedBaseConfig
from fastsynth.diffusion.pretrained.latents import cell_size
from fastsynth.diffusion.pretrained.memory import TrainingPlan, available_bytes, memory_message
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline
from fastsynth.diffusion.pretrained.training import PretrainedParts, build_optimizer, save_adapters
from fastsynth.diffusion.training import TrainingSetup
from fastsynth.parallel import wait_for_all
from fastsynth.run import Run

BUILT_FROM = {
    "pretrained", "download", "revision", "autoencoder", "precision", "prompt", "normal_prompt", "tokens_per_category",
    "tokens_per_defect", "words", "farm", "spatial_tokens",
}  # fmt: skip
"""Keys of `base` that a new pipeline is built from."""


def build(
    run: Run, settings: FASTConfig, base: PretrainedBaseConfig, pairs: Sequence[tuple[str, str]], device: torch.device
) -> PretrainedFASTPipeline:
    """A new pipeline on the CPU. Raises ValueError when a training on `device` is estimated not to fit."""
    logging.disable_progress_bar()  # of loading: it is over before it can be read
    if base.precision == "fp16" and device.type == "cpu":
        raise ValueError("base.precision is fp16, which needs a GPU; use bf16 or fp32")
    wait_for_all(cpu=device.type == "cpu")  # from now on every process has its own GPU
    pipeline = new_pretrained_pipeline(
        pairs,
        **base.model_dump(include=BUILT_FROM),
        size=settings.crop_size,
        kernel=settings.kernel,
        spacing=settings.spacing,
        solver_order=settings.solver_order,
        seed=run.config.seed,
    )
    available = available_bytes(device)
    if base.check_memory and available is not None:
        message = memory_message(pipeline.unet.config, _plan(settings, base, pipeline), available=available)
        if message is not None:
            raise ValueError(f"{message}; base.check_memory false starts it all the same")
    return pipeline


def training_setup(
    run: Run, settings: FASTConfig, base: PretrainedBaseConfig, pipeline: PretrainedFASTPipeline
) -> TrainingSetup:
    """How `train_fast` trains it."""

    def build_parts(_: object) -> PretrainedParts:
        latent_size = settings.crop_size // cell_size(pipeline.vae)
        parts = PretrainedParts(pipeline, latent_size=latent_size, masked_loss=base.masked_loss)
        pipeline.vae.to("cpu")  # everything is encoded by now
        if base.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
        if base.compile:
            pipeline.unet.compile()
        return parts

    def optimizer(parts: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
        return build_optimizer(
            parts, learning_rate=learning_rate, token_learning_rate=base.token_learning_rate, kind=base.optimizer
        )

    return TrainingSetup(
        build_parts=build_parts,
        build_optimizer=optimizer,
        schedule="constant_with_warmup",
        mixed_precision="no" if base.precision == "fp32" else base.precision,
        before_merge=lambda: save_adapters(pipeline, run.model_folder),
    )


def load(run: Run, settings: FASTConfig, base: PretrainedBaseConfig, device: torch.device) -> PretrainedFASTPipeline:
    """The trained pipeline on `device`, or with `base.offload` beside it, to sample as the settings say."""
    logging.disable_progress_bar()
    pipeline = open_pretrained_pipeline(
        run.model_folder,
        precision=base.precision,
        kernel=settings.kernel,
        spacing=settings.spacing,
        solver_order=settings.solver_order,
    )
    pipeline.cache_in(run.folder / "cache")
    if base.offload and device.type != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if base.compile:
        pipeline.unet.compile()
    return pipeline


def _plan(settings: FASTConfig, base: PretrainedBaseConfig, pipeline: PretrainedFASTPipeline) -> TrainingPlan:
    return TrainingPlan(
        crop_size=settings.crop_size,
        batch_size=settings.training.batch_size,
        unet=settings.training.unet,
        lora_rank=settings.training.lora_rank,
        precision=base.precision,
        optimizer=base.optimizer,
        gradient_checkpointing=base.gradient_checkpointing,
        cell=cell_size(pipeline.vae),
        fixed_bytes=sum(parameter.nbytes for parameter in pipeline.text_encoder.parameters()),
    )
