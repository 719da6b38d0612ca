"""Finishes the decoder of the shipped autoencoder: python -m fastsynth.diffusion.pretrain_decoder configs/decoder.yaml

The decoder of `pretrain` has seen latents of whole pictures. In FAST it gets others: a defect's inside the mask, the
hidden background's around it, and fine structure that a denoiser made up. Here it learns from such latents: the base
redraws generated defects from a share of the diffusion time on, so that their coarse content is still the picture's,
and the decoder turns half of them, and the defects' own latents, back into the picture. Where the fine structure was
made up, the pixels cannot be right, so there only the look counts, and whether a patch discriminator believes it.

The encoder stays as it was, and with it the latents, the base, and every model trained on them. Resumable.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastsynth.checkpoints import load_checkpoint, save_checkpoint
from fastsynth.config import Config, load_config
from fastsynth.diffusion.autoencoder import DOWNSAMPLING
from fastsynth.diffusion.base import latent_mask, load_autoencoder
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.config import UNetConfig
from fastsynth.diffusion.defects import KINDS
from fastsynth.diffusion.perceptual import PerceptualDistance
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.pretrain import PatchDiscriminator, export_averaged, latent_noise
from fastsynth.diffusion.pretrain_base import CATEGORY, base_views
from fastsynth.diffusion.views import View
from fastsynth.files import atomic_write
from fastsynth.loops import Progress

Share = Annotated[float, Field(ge=0, le=1)]
DRAWN_AT_ONCE = 16
VIEWS_STREAM = 2
"""Of the seeds of `base_views`, the ones after those of the base's own defects and sound surfaces."""


class DecoderConfig(Config):
    output: Path
    """Folder for the redrawn views, checkpoints and the finished model."""
    seed: int = 0
    autoencoder: Path
    """The autoencoder whose decoder is finished."""
    base: Literal["bundled"] | Path
    """The base that redraws, a bundle trained in the same latents."""
    crop_size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    views: Annotated[int, Field(ge=1)] = 1200
    """Generated defects."""
    redraw_strength: tuple[Share, Share] = (0.3, 0.8)
    """Share of the diffusion time from which the base redraws, drawn evenly for every batch of views."""
    num_inference_steps: Annotated[int, Field(ge=1)] = 4
    redrawn_share: Share = 0.6
    """Share of redrawn views in a batch; the others keep their own latents."""
    steps: Annotated[int, Field(ge=1)] = 800
    batch_size: Annotated[int, Field(ge=1)] = 6
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.5
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.05
    latent_noise: Annotated[float, Field(ge=0)] = 0.45
    """Noise inside the masks, of a standard deviation of |N(0, 1)| times this per view."""
    save_every: Annotated[int, Field(ge=1)] = 100


@dataclass(frozen=True)
class RedrawnViews:
    """pictures: (N, 3, S, S) float16 in [-1, 1]; mask_images: (N, 1, S, S) uint8; own, redrawn: (N, C, h, w) float16,
    what FAST trains on, and the same with the inside of the masks redrawn by the base."""

    pictures: Tensor
    mask_images: Tensor
    own: Tensor
    redrawn: Tensor

    def save(self, path: Path) -> None:
        atomic_write(path, save(vars(self)))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**load_file(path))

    def batch(self, picks: np.ndarray, *, redrawn: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, mask images and latents of the picked views, float32; `redrawn` (B,) says which latents."""
        at = torch.from_numpy(picks)
        which = torch.from_numpy(redrawn).view(-1, 1, 1, 1)
        latents = torch.where(which, self.redrawn[at], self.own[at])
        return self.pictures[at].float(), self.mask_images[at].float(), latents.float()


def redraw(views: list[View], pipeline: FASTPipeline, *, strength: float, steps: int, seed: int) -> RedrawnViews:
    """The latents of `views`, own and redrawn by the pipeline from `strength` of the diffusion time on."""
    pictures = torch.from_numpy(np.stack([view.picture for view in views])).to(pipeline.device)
    masks = torch.from_numpy(np.stack([view.mask_image for view in views])).to(pipeline.device)
    rows = torch.tensor([pipeline.tokens.index(view.category, view.defect) for view in views], device=pipeline.device)
    with torch.no_grad():
        own = pipeline.training_latents(pictures, masks)
        redrawn = pipeline.sample(
            own,
            masks,
            rows,
            guess=own,
            start="exemplar",
            strength=strength,
            num_inference_steps=steps,
            farm="off",
            background_mode="x0_blend",
            generator=torch.Generator().manual_seed(seed),
        )
    return RedrawnViews(pictures.half().cpu(), masks.byte().cpu(), own.half().cpu(), redrawn.half().cpu())


def redrawn_views(config: DecoderConfig) -> RedrawnViews:
    """All views of a training."""
    pipeline = new_pipeline(
        [(CATEGORY, kind) for kind in KINDS],
        autoencoder=config.autoencoder,
        pretrained=config.base,
        fresh=UNetConfig(),
        size=config.crop_size,
        kernel="exact",
        spacing="logsnr",
        solver_order=2,
        seed=config.seed,
    ).to(Accelerator().device)
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng((config.seed, VIEWS_STREAM))
    views = list(base_views(count=config.views, size=config.crop_size, sound=False, rng=rng))
    parts = [
        redraw(
            views[start : start + DRAWN_AT_ONCE],
            pipeline,
            strength=rng.uniform(*config.redraw_strength),
            steps=config.num_inference_steps,
            seed=start,
        )
        for start in tqdm(range(0, len(views), DRAWN_AT_ONCE), desc="redraw")
    ]
    return RedrawnViews(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def fidelity(decoded: Tensor, pictures: Tensor, *, redrawn: Tensor) -> Tensor:
    """L1 distance, (B,): of all pixels, or, where the latents were redrawn, of the means over latent cells only.

    decoded, pictures: (B, 3, S, S). redrawn: (B,) bool.
    """
    cells = functional.avg_pool2d(decoded - pictures, DOWNSAMPLING).abs().mean((1, 2, 3))
    pixels = (decoded - pictures).abs().mean((1, 2, 3))
    return torch.where(redrawn, cells, pixels)


def inside_mean(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, 1, h, w) over the mask of each picture, then over the batch."""
    return ((logits * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)).mean()


def finish(config: DecoderConfig) -> Path:
    """Train to the end, continuing from the last checkpoint; returns the folder of the finished model."""
    path = config.output / "views.safetensors"
    if not path.is_file():
        redrawn_views(config).save(path)
    views = RedrawnViews.load(path)
    accelerator = Accelerator()
    torch.manual_seed(config.seed)  # the discriminator's weights only; everything else has its own generators
    model = load_autoencoder(config.autoencoder)
    model.decoder.requires_grad_(True)
    discriminator = PatchDiscriminator()
    perceptual = PerceptualDistance(out_indices=(0, 1, 2, 3)).to(accelerator.device)
    for part in (model, discriminator, perceptual):
        part.to(memory_format=torch.channels_last)  # faster on the CPU
    optimizer = torch.optim.AdamW(model.decoder.parameters(), config.learning_rate, weight_decay=1e-4)
    judge_optimizer = torch.optim.AdamW(discriminator.parameters(), 4e-4, betas=(0.5, 0.9))
    warmup = max(1, config.steps // 10)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=config.steps)
    ema = EMAModel(model.parameters(), decay=0.99)
    model, discriminator, optimizer, judge_optimizer, schedule = accelerator.prepare(
        model, discriminator, optimizer, judge_optimizer, schedule
    )
    ema.to(accelerator.device)
    progress = Progress()
    accelerator.register_for_checkpointing(ema, progress)
    load_checkpoint(accelerator, config.output)

    bar = tqdm(total=config.steps, initial=progress.step, desc="decoder")
    while progress.step < config.steps:
        rng = np.random.default_rng((config.seed, progress.step))
        picks = rng.integers(len(views.pictures), size=config.batch_size)
        from_redrawn = rng.random(config.batch_size) < config.redrawn_share
        batch = views.batch(picks, redrawn=from_redrawn)
        pictures, masks, latents = (part.to(accelerator.device) for part in batch)
        redrawn = torch.from_numpy(from_redrawn).to(accelerator.device)
        mask = latent_mask(masks)
        noise = latent_noise(latents.shape, scale=config.latent_noise, rng=rng).to(latents)

        decoded = model.decode((latents + mask * noise).contiguous(memory_format=torch.channels_last)).sample
        # only the inside is ever seen, so only that is judged, in its surroundings
        shown = torch.where(masks > 0, decoded, pictures)
        distance = fidelity(decoded, pictures, redrawn=redrawn).mean()
        look = perceptual(shown, pictures).mean()
        discriminator.requires_grad_(False)
        believed = inside_mean(discriminator(shown), mask)
        discriminator.requires_grad_(True)
        ramp = min(1.0, progress.step / warmup)
        loss = distance + config.perceptual_weight * look - ramp * config.adversarial_weight * believed
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        real, fake = discriminator(pictures), discriminator(shown.detach())
        doubt = inside_mean(functional.relu(1 - real), mask) + inside_mean(functional.relu(1 + fake), mask)
        accelerator.backward(doubt)
        judge_optimizer.step()
        judge_optimizer.zero_grad()

        progress.step += 1
        bar.update()
        if progress.step % 50 == 0:
            bar.set_postfix(l1=f"{distance.item():.4f}", look=f"{look.item():.4f}", doubt=f"{doubt.item():.2f}")
        if progress.step % config.save_every == 0 or progress.step == config.steps:
            # the model first: where the last checkpoint is, a model is too
            export_averaged(accelerator.unwrap_model(model), ema, config.output / "model")
            save_checkpoint(accelerator, config.output, step=progress.step)
    return config.output / "model"


if __name__ == "__main__":
    config_path, *changes = sys.argv[1:]
    print(finish(load_config(DecoderConfig, Path(config_path), changes)))
