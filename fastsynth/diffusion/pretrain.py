"""Trains the shipped autoencoder: python -m fastsynth.diffusion.pretrain configs/autoencoder.yaml

Data: generated surfaces and the free pictures inside scikit-image, nothing else. Loss: L1 + perceptual distance on the
offline trunk + a patch-adversarial term (hinge) that starts once the picture stands. Noise of random strength is added
to the latents, so that the decoder learns to make coherent texture of latents that are slightly wrong. Resumable: the
same command continues from the last checkpoint.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from fastsynth.config import Config, load_config
from fastsynth.data.surfaces import draw_surface, free_pictures
from fastsynth.diffusion.adversarial import AdversarialTraining
from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.defects import KINDS, draw_defect, draw_foreground

SURFACE_SIZE = 192
FREE_SHARE = 0.3


class AutoencoderConfig(Config):
    output: Path
    """Folder for checkpoints and the finished model."""
    seed: int = 0
    latent_channels: Annotated[int, Field(ge=1)] = 32
    surfaces: Annotated[int, Field(ge=1)] = 2000
    """Generated pictures in the pool that crops are cut from; every second one bears a defect."""
    steps: Annotated[int, Field(ge=1)] = 6000
    batch_size: Annotated[int, Field(ge=1)] = 12
    crop_size: Annotated[int, Field(ge=32, multiple_of=8)] = 80
    large_crop_size: Annotated[int, Field(ge=32, multiple_of=8)] = 128
    """Crops of the last part: small ones are all border, and the decoder would lean on it for the overall tone."""
    large_crop_start: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Share of the steps after which the crops are large, and as many fewer as keeps a batch's pixels."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    perceptual_weight: Annotated[float, Field(ge=0)] = 1.0
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.05
    adversarial_start: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the steps after which the adversarial term begins."""
    latent_noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.5, 0.15)
    """Scale of the noise in the latents, first and last: its standard deviation is |N(0, 1)| times this, drawn per
    picture. The first shapes the latents, the last decides what fine detail the decoder still trusts."""
    noise_decline_start: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the steps after which the scale of the noise declines, evenly to the end."""
    roughness_weight: Annotated[float, Field(ge=0)] = 0.03
    """Price of what varies between neighbouring latents (`latent_roughness`)."""
    save_every: Annotated[int, Field(ge=1)] = 500


@dataclass(frozen=True)
class CropPool:
    """Pictures (H, W, 3) uint8 to cut training crops from."""

    surfaces: list[np.ndarray]
    free: list[np.ndarray]

    def batch(self, size: int, count: int, rng: np.random.Generator) -> Tensor:
        """(count, 3, size, size) float in [-1, 1]."""
        crops = np.stack([self._crop(size, rng) for _ in range(count)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        pool = self.free if rng.random() < FREE_SHARE else self.surfaces
        picture = pool[rng.integers(len(pool))]
        # zoom: small defects are shown to the model enlarged, so enlarged, soft pictures belong in the diet
        side = int(np.clip(size * np.exp(rng.uniform(np.log(0.35), np.log(1.6))), 16, min(picture.shape[:2])))
        y = rng.integers(picture.shape[0] - side + 1)
        x = rng.integers(picture.shape[1] - side + 1)
        crop = np.rot90(picture[y : y + side, x : x + side], int(rng.integers(4)))
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        crop = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_AREA if side > size else 1)
        if rng.random() < 0.4:
            crop = np.repeat(crop.mean(2, keepdims=True), 3, axis=2)
        gain, lift = rng.uniform(0.5, 1.2), rng.uniform(-50, 30)
        return np.clip((crop.astype(np.float32) - 128) * gain + 128 + lift, 0, 255)


def build_pool(config: AutoencoderConfig) -> CropPool:
    """Draw the generated surfaces (about 30 ms each) and read the free pictures."""
    rng, kinds = np.random.default_rng(config.seed), list(KINDS)
    surfaces = []
    for number in tqdm(range(config.surfaces), desc="surfaces"):
        surface = draw_surface((SURFACE_SIZE, SURFACE_SIZE), rng=rng)
        if number % 2:
            kind = kinds[rng.integers(len(kinds))]
            surface = draw_defect(kind, surface, draw_foreground(kind, surface.shape[:2], rng=rng), rng=rng)
        surfaces.append(surface)
    return CropPool(surfaces=surfaces, free=free_pictures())


def latent_roughness(latents: Tensor) -> Tensor:
    """Share of the latents' power that is not in the means over cells of 4×4: (B, C, h, w) to a scalar.

    A denoiser learns coarse content first and best, so a defect's look should lie there. Latents have unit variance,
    so a lower share of fine power is a higher one of coarse power.
    """
    coarse = functional.interpolate(functional.avg_pool2d(latents, 4), scale_factor=4)
    return (latents - coarse).square().mean()


def pretrain(config: AutoencoderConfig) -> Path:
    """Train to the end, continuing from the last checkpoint; returns the folder of the finished model."""
    pool = build_pool(config)
    with torch.random.fork_rng():  # weights only; crops and latent noise have their own generators
        torch.manual_seed(config.seed)
        training = AdversarialTraining(
            CompactAutoencoder(latent_channels=config.latent_channels).train(),
            output=config.output,
            max_train_steps=config.steps,
            warmup_steps=200,
            learning_rate=config.learning_rate,
            judge_learning_rate=2e-4,
            ema_decay=0.998,
            save_every=config.save_every,
        )
    model = training.model
    for step in training.steps():
        rng = np.random.default_rng((config.seed, step))
        image = pool.batch(*_crops(config, step), rng).to(training.device)
        latents = model.encode(image).latents
        noise = latent_noise(latents.shape, scale=_noise_scale(config, step), rng=rng).to(latents)
        decoded = model.decode(latents + noise).sample

        pixel = (decoded - image).abs().mean()
        look = training.perceptual(decoded, image).mean()
        loss = pixel + config.perceptual_weight * look + config.roughness_weight * latent_roughness(latents)
        everywhere = torch.ones_like(latents[:, :1])
        judged = step >= config.adversarial_start * config.steps and config.adversarial_weight > 0
        if judged:
            loss = loss - config.adversarial_weight * training.believed(decoded, mask=everywhere)
        training.learn(loss, l1=pixel, look=look)
        if judged:
            training.learn_to_judge(image, decoded, mask=everywhere)
    return training.exported


def _crops(config: AutoencoderConfig, step: int) -> tuple[int, int]:
    """Side and number of the crops of a step."""
    if step < config.large_crop_start * config.steps:
        return config.crop_size, config.batch_size
    shrink = (config.crop_size / config.large_crop_size) ** 2
    return config.large_crop_size, max(2, round(config.batch_size * shrink))


def _noise_scale(config: AutoencoderConfig, step: int) -> float:
    first, last = config.latent_noise
    done = (step / config.steps - config.noise_decline_start) / (1 - config.noise_decline_start)
    return first + max(done, 0.0) * (last - first)


def latent_noise(shape: torch.Size, *, scale: float, rng: np.random.Generator) -> Tensor:
    """(B, C, h, w), of another standard deviation in every picture: |N(0, 1)| times `scale`."""
    strength = np.abs(rng.standard_normal((shape[0], 1, 1, 1))) * scale
    return torch.from_numpy(strength * rng.standard_normal(shape))


if __name__ == "__main__":
    path, *changes = sys.argv[1:]
    print(pretrain(load_config(AutoencoderConfig, Path(path), changes)))
