"""Trains FAST on a user's own defects: UNet, FARM and defect tokens in one joint phase (docs/fast_paper.md, row 5).

Per step: noise the latents to a random level, let FARM guess what is inside the mask, hand the guess to the UNet in
a share of the samples (`training.farm_share`), and train

    L = λ1 · w · ‖v̂ - v‖² + λ2 · ‖F - z‖² inside the mask.

Where FARM rewrote the input (x' instead of x_t) the target is the velocity that leads from x' back to z, and w turns
its error into that of x̂_0: the plain velocity error would explode at low noise, where x' holds FARM's error but
hardly any noise. The noise that goes into x' is drawn afresh, as it will be at sampling.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from fastsynth.checkpoints import asked_to_stop, load_checkpoint, save_checkpoint
from fastsynth.diffusion.adapting import (
    HeldOutJudge,
    TrainedUNet,
    choose_trained,
    merge_lora,
    trained_parameters,
)
from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.base import farm_input, latent_mask, unet_input
from fastsynth.diffusion.losses import FASTLoss, fast_loss, foreground_loss
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.views import EncodedViews
from fastsynth.loops import Progress, averaged
from fastsynth.parallel import gather_batch, own_slice
from fastsynth.precision import Precision, own_precision, training_precision
from fastsynth.stopping import gentle_stop

HELD_OUT_SEED = 0x5EED
"""Of the noise that held-out defects are judged at: the same for every run, so that their losses compare."""


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


def _adamw(parts: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in parts.parameters() if p.requires_grad), learning_rate, weight_decay=0.01)


@dataclass(frozen=True)
class TrainingSetup:
    """What of the training depends on the base; the defaults are the compact one's.

    build_parts: the pipeline's parts as one module, called as `TrainedParts` is, once it is chosen what learns.
    build_optimizer: of the parts and the learning rate. schedule: as diffusers names it.
    mixed_precision: None: as `training_precision` says.
    before_merge: called with the trained weights in place, before low-rank corrections are added to what they correct.
    """

    build_parts: Callable[[Any], nn.Module] = TrainedParts
    build_optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = _adamw
    schedule: str = "cosine"
    mixed_precision: Precision | None = None
    before_merge: Callable[[], None] | None = None


COMPACT = TrainingSetup()


class TrainingResult(NamedTuple):
    """seconds of training over all sittings; steps behind the kept weights; their held-out loss, if there was any."""

    seconds: float
    steps: int
    held_out_loss: float | None


class TrainingNoise:
    """Everything random in a step, drawn on the CPU from the run's seed and the step's number.

    farm_share: of the samples, in which FARM rewrites the UNet's input.
    """

    def __init__(self, shape: torch.Size, *, num_train_timesteps: int, seed: int, step: int, farm_share: float) -> None:
        entropy = np.random.SeedSequence((seed, step)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(entropy))
        count = shape[0]
        # evenly spread over the batch: less variance than independent draws
        levels = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        self.timesteps = (levels * num_train_timesteps).long()[torch.randperm(count, generator=generator)]
        self.epsilon = torch.randn(shape, generator=generator)
        self.fresh = torch.randn(shape, generator=generator)
        self.with_farm = torch.rand(count, generator=generator) < farm_share

    def to(self, device: torch.device) -> "TrainingNoise":
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self

    def part(self, samples: slice) -> "TrainingNoise":
        """That of some of the batch's samples."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            setattr(part, name, value[samples])
        return part


@own_precision()
def train_fast(
    pipeline: FASTPipeline,
    defects: EncodedViews,
    normals: EncodedViews,
    *,
    output: Path,
    seed: int,
    made_from: str = "",
    max_train_steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    denoising_weight: float,
    farm_weight: float,
    foreground_weight: float,
    normal_share: float,
    farm_share: float,
    save_every: int,
    judge_every: int,
    log: Callable[[dict[str, float]], None],
    unet: TrainedUNet = "full",
    lora_rank: int = 16,
    held_out: EncodedViews | None = None,
    patience: int | None = None,
    setup: TrainingSetup = COMPACT,
) -> TrainingResult:
    """Train to `max_train_steps`, continuing from the last checkpoint below `output`.

    The pipeline ends up with the averaged weights: the last ones, or with `held_out` those with the least loss inside
    its masks, judged every `judge_every` steps; `patience` judgements without a better one end the training.
    `log` gets step and losses every 10 steps, and the held-out loss at every judgement. Asked to stop, it finishes
    the step, saves it and raises KeyboardInterrupt. Several processes share each batch; the weights are the same.

    made_from: hash of settings and data; a checkpoint of a training with another one is refused with a ValueError.
    """
    device = pipeline.device.type
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision=setup.mixed_precision or training_precision(device))
    choose_trained(pipeline, unet=unet, lora_rank=lora_rank, seed=seed)
    parts = setup.build_parts(pipeline).train()
    optimizer = setup.build_optimizer(parts, learning_rate)
    schedule = get_scheduler(
        setup.schedule, optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_train_steps
    )
    plain = copy.copy(parts)  # the same networks, judged in full precision: what is prepared computes in another
    parts, optimizer, schedule = accelerator.prepare(parts, optimizer, schedule)
    ema = EMAModel(trained_parameters(parts), decay=ema_decay)
    ema.to(accelerator.device)
    progress, judge = Progress(), HeldOutJudge()
    accelerator.register_for_checkpointing(ema, progress, *([judge] if held_out else []))
    load_checkpoint(accelerator, output, made_from=made_from)

    scheduler = pipeline.scheduler
    weigh = partial(
        fast_loss, denoise_weight=denoising_weight, farm_weight=farm_weight, foreground_weight=foreground_weight
    )
    hidden = not accelerator.is_main_process
    with (
        tqdm(total=max_train_steps, initial=progress.step, desc="train FAST", disable=hidden) as bar,
        gentle_stop() as stop,
    ):
        while progress.step < max_train_steps and not judge.exhausted(patience):
            rng = np.random.default_rng((seed, progress.step))
            batch = _draw(defects, normals, batch_size, normal_share, rng)
            noise = TrainingNoise(
                batch[0].shape,
                num_train_timesteps=len(scheduler),
                seed=seed,
                step=progress.step,
                farm_share=farm_share,
            )
            loss = _loss(accelerator, parts, batch, noise, scheduler, weigh)
            accelerator.backward(accelerator.num_processes * loss.total)
            accelerator.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(trained_parameters(parts))

            progress.step += 1
            bar.update()
            if progress.step % 10 == 0:
                shown = {"denoise": loss.denoise.item(), "farm": loss.farm.item()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})
                log({"step": progress.step, **shown})
            if held_out is not None and (progress.step % judge_every == 0 or progress.step == max_train_steps):
                with averaged(trained_parameters(parts), ema):
                    judged = held_out_loss(plain, held_out, scheduler, batch_size=batch_size)
                    judge.note(plain, judged, step=progress.step)
                log({"step": progress.step, "held_out": judged})
            stopped = asked_to_stop(accelerator, stop)
            if stopped or progress.step % save_every == 0:
                save_checkpoint(accelerator, output, step=progress.step, made_from=made_from)
            if stopped:
                raise KeyboardInterrupt
    ema.copy_to(trained_parameters(parts))
    if judge.best:
        judge.restore(plain)
    if setup.before_merge is not None and accelerator.is_main_process:
        setup.before_merge()
    parts.eval().requires_grad_(False)
    merge_lora(pipeline.unet)
    return TrainingResult(progress.seconds, int(judge.best.get("step", progress.step)), judge.best.get("loss"))


def _loss(
    accelerator: Accelerator,
    parts: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    noise: TrainingNoise,
    scheduler: AIASScheduler,
    weigh: Callable[..., FASTLoss],
) -> FASTLoss:
    """Of the whole batch; this process computes its own slice of it."""
    latents, mask_image, rows = (tensor.to(accelerator.device) for tensor in batch)
    own, noise = own_slice(accelerator, len(latents)), noise.to(accelerator.device)
    mine = parts(latents[own], mask_image[own], rows[own], scheduler, noise.part(own))
    gathered = {name: gather_batch(accelerator, value) for name, value in mine.items()}
    return weigh(**gathered, latents=latents, mask=_cells(mask_image, latents))


@torch.no_grad()
def held_out_loss(parts: nn.Module, views: EncodedViews, scheduler: AIASScheduler, *, batch_size: int) -> float:
    """Mean squared error inside the masks, of predictions at fixed noise without FARM, over all views."""
    losses, training = [], parts.training
    parts.eval()
    device = next(parts.parameters()).device
    for start in range(0, len(views), batch_size):
        picks = np.arange(start, min(start + batch_size, len(views)))
        latents, mask_image, rows = (tensor.to(device) for tensor in views.batch(picks))
        noise = TrainingNoise(
            latents.shape, num_train_timesteps=len(scheduler), seed=HELD_OUT_SEED, step=start, farm_share=0.0
        )
        output = parts(latents, mask_image, rows, scheduler, noise.to(device))
        losses.append(foreground_loss(output["prediction"], output["target"], mask=_cells(mask_image, latents)))
    parts.train(training)
    return float(torch.cat(losses).mean())


def _cells(mask_image: Tensor, latents: Tensor) -> Tensor:
    """The mask (B, 1, H, W) on the grid of the latents, whatever the base's cells measure."""
    return latent_mask(mask_image, cell=mask_image.shape[-1] // latents.shape[-1])


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
