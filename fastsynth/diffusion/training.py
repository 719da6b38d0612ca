"""Trains FAST on a user's own defects: UNet, FARM and defect tokens in one joint phase (fast.md 2.3).

Per step: noise the latents to a random level, let FARM guess what is inside the mask, hand the guess to the UNet in
half of the samples, and train

    L = λ1 · w · ‖v̂ - v‖² + λ2 · ‖F - z‖² inside the mask.

Where FARM rewrote the input (x' instead of x_t) the target is the velocity that leads from x' back to z, and w turns
its error into that of x̂_0: the plain velocity error would explode at low noise, where x' holds FARM's error but
hardly any noise. The noise that goes into x' is drawn afresh, as it will be at sampling.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from fastsynth.checkpoints import load_checkpoint, save_checkpoint
from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.base import farm_input, latent_mask, unet_input
from fastsynth.diffusion.losses import FASTLoss, fast_loss
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.progress import Progress
from fastsynth.diffusion.views import EncodedViews

FARM_SHARE = 0.5
"""Share of the samples in which FARM rewrites the UNet's input, so that it can be left out at sampling too."""


class TrainedParts(nn.Module):
    """What the joint phase trains, as one module for the optimiser, the average and accelerate."""

    def __init__(self, pipeline: FASTPipeline) -> None:
        super().__init__()
        self.unet, self.farm, self.tokens = pipeline.unet, pipeline.farm, pipeline.tokens

    def forward(
        self, latents: Tensor, mask_image: Tensor, rows: Tensor, scheduler: AIASScheduler, noise: "TrainingNoise"
    ) -> dict[str, Tensor]:
        """One training step's tensors: prediction and target (weighted alike), reconstruction. All (B, C, h, w)."""
        mask = latent_mask(mask_image)
        alpha_bar = scheduler.alphas_cumprod[noise.timesteps.cpu()].to(latents)[:, None, None, None]
        noisy = scheduler.add_noise(latents, noise.epsilon, noise.timesteps)
        reconstruction = self.farm(noisy, mask, noise.timesteps, self.tokens.pooled(rows))
        rewritten = farm_input(noisy, reconstruction, mask, alpha_bar, noise.fresh)
        with_farm = noise.with_farm[:, None, None, None]
        x = torch.where(with_farm, rewritten, noisy)
        velocity = self.unet(unet_input(x, latents, mask_image), noise.timesteps, self.tokens(rows)).sample
        target = (alpha_bar.sqrt() * x - latents) / (1 - alpha_bar).sqrt()
        weight = torch.where(with_farm, (1 - alpha_bar).sqrt(), torch.ones_like(alpha_bar))
        return {"prediction": weight * velocity, "target": weight * target, "reconstruction": reconstruction}


class TrainingNoise:
    """Everything random in a step, drawn on the CPU from the run's seed and the step's number."""

    def __init__(self, shape: torch.Size, *, num_train_timesteps: int, seed: int, step: int) -> None:
        entropy = np.random.SeedSequence((seed, step)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(entropy))
        count = shape[0]
        # evenly spread over the batch: less variance than independent draws
        levels = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        self.timesteps = (levels * num_train_timesteps).long()[torch.randperm(count, generator=generator)]
        self.epsilon = torch.randn(shape, generator=generator)
        self.fresh = torch.randn(shape, generator=generator)
        self.with_farm = torch.rand(count, generator=generator) < FARM_SHARE

    def to(self, device: torch.device) -> "TrainingNoise":
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self


def train_fast(
    pipeline: FASTPipeline,
    defects: EncodedViews,
    normals: EncodedViews,
    *,
    output: Path,
    seed: int,
    max_train_steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    denoising_weight: float,
    farm_weight: float,
    foreground_weight: float,
    normal_share: float,
    save_every: int,
    log: Callable[[dict[str, float]], None],
) -> float:
    """Train to `max_train_steps`, continuing from the last checkpoint below `output`; returns seconds of training.

    The pipeline ends up with the averaged weights. `log` gets step and losses every 10 steps.
    """
    accelerator = Accelerator(cpu=pipeline.device.type == "cpu")
    parts = TrainedParts(pipeline).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(parts.parameters(), learning_rate, weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_train_steps)
    parts, optimizer, schedule = accelerator.prepare(parts, optimizer, schedule)
    ema = EMAModel(parts.parameters(), decay=ema_decay)
    ema.to(accelerator.device)
    progress = Progress()
    accelerator.register_for_checkpointing(ema, progress)
    load_checkpoint(accelerator, output)

    scheduler = pipeline.scheduler
    with tqdm(total=max_train_steps, initial=progress.step, desc="train FAST") as bar:
        while progress.step < max_train_steps:
            rng = np.random.default_rng((seed, progress.step))
            latents, mask_image, rows = _draw(defects, normals, batch_size, normal_share, rng)
            noise = TrainingNoise(latents.shape, num_train_timesteps=len(scheduler), seed=seed, step=progress.step)
            latents, mask_image = latents.to(accelerator.device), mask_image.to(accelerator.device)
            output_of_step = parts(
                latents, mask_image, rows.to(accelerator.device), scheduler, noise.to(accelerator.device)
            )
            loss: FASTLoss = fast_loss(
                **output_of_step,
                latents=latents,
                mask=latent_mask(mask_image),
                denoise_weight=denoising_weight,
                farm_weight=farm_weight,
                foreground_weight=foreground_weight,
            )
            accelerator.backward(loss.total)
            accelerator.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(parts.parameters())

            progress.step += 1
            bar.update()
            if progress.step % 10 == 0:
                shown = {"denoise": loss.denoise.item(), "farm": loss.farm.item()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})
                log({"step": progress.step, **shown})
            if progress.step % save_every == 0:
                save_checkpoint(accelerator, output, step=progress.step)
    ema.copy_to(parts.parameters())
    parts.eval().requires_grad_(False)
    return progress.seconds


def _draw(
    defects: EncodedViews, normals: EncodedViews, batch_size: int, normal_share: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    count = round(batch_size * normal_share)
    from_defects = defects.batch(rng.integers(len(defects), size=batch_size - count))
    if count == 0:
        return from_defects
    from_normals = normals.batch(rng.integers(len(normals), size=count))
    latents, masks, rows = (torch.cat(pair) for pair in zip(from_defects, from_normals, strict=True))
    return latents, masks, rows
