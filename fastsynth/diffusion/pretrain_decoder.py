"""Finishes the decoder of the shipped autoencoder: python -m fastsynth.diffusion.pretrain_decoder configs/decoder.yaml

The decoder of `pretrain` has seen latents of whole pictures. In FAST it gets others: a defect's inside the mask, the
hidden background's around it, and fine structure that a denoiser made up. Here it learns from such latents: the base
redraws generated defects from a share of the diffusion time on, so that their coarse content is still the picture's,
and the decoder turns these, and the defects' own latents, back into the picture. Where the fine structure was made up,
the pixels cannot be right, so there only the look counts, and whether a patch discriminator believes it.

The encoder stays as it was, and with it the latents, the base, and every model trained on them. Resumable.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastsynth.config import Config, load_config
from fastsynth.diffusion.adversarial import AdversarialTraining
from fastsynth.diffusion.autoencoder import DOWNSAMPLING
from fastsynth.diffusion.base import latent_mask, load_autoencoder
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.config import UNetConfig
from fastsynth.diffusion.defects import KINDS
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.pretrain import latent_noise
from fastsynth.diffusion.pretrain_base import CATEGORY, base_views
from fastsynth.diffusion.views import View
from fastsynth.files import atomic_write

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


def finish(config: DecoderConfig) -> Path:
    """Train to the end, continuing from the last checkpoint; returns the folder of the finished model."""
    path = config.output / "views.safetensors"
    if not path.is_file():
        redrawn_views(config).save(path)
    views = RedrawnViews.load(path)
    model = load_autoencoder(config.autoencoder)
    model.decoder.requires_grad_(True)
    warmup = max(1, config.steps // 10)
    with torch.random.fork_rng():  # the judge's weights only; everything else has its own generators
        torch.manual_seed(config.seed)
        training = AdversarialTraining(
            model,
            output=config.output,
            max_train_steps=config.steps,
            warmup_steps=warmup,
            learning_rate=config.learning_rate,
            judge_learning_rate=4e-4,
            ema_decay=0.99,
            save_every=config.save_every,
        )
    for step in training.steps():
        rng = np.random.default_rng((config.seed, step))
        picks = rng.integers(len(views.pictures), size=config.batch_size)
        redrawn = rng.random(config.batch_size) < config.redrawn_share
        batch = views.batch(picks, redrawn=redrawn)
        pictures, masks, latents = (part.to(training.device) for part in batch)
        mask = latent_mask(masks)
        noise = latent_noise(latents.shape, scale=config.latent_noise, rng=rng).to(latents)
        decoded = training.model.decode(latents + mask * noise).sample

        # only the inside is ever seen, so only that is judged, in its surroundings
        shown = torch.where(masks > 0, decoded, pictures)
        distance = fidelity(decoded, pictures, redrawn=torch.from_numpy(redrawn).to(training.device)).mean()
        look = training.perceptual(shown, pictures).mean()
        adversarial = min(1.0, step / warmup) * config.adversarial_weight
        loss = distance + config.perceptual_weight * look - adversarial * training.believed(shown, mask=mask)
        training.learn(loss, l1=distance, look=look)
        training.learn_to_judge(pictures, shown, mask=mask)
    return training.exported


if __name__ == "__main__":
    config_path, *changes = sys.argv[1:]
    print(finish(load_config(DecoderConfig, Path(config_path), changes)))
