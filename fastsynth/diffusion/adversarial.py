"""What the trainings of the autoencoder and of its decoder share: a step, its judge, averages and checkpoints.

The loss is the caller's; its adversarial part (hinge) comes from a judge of patches that learns beside the model.
Pictures are (B, 3, H, W) in [-1, 1].
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from fastsynth.checkpoints import load_checkpoint, save_checkpoint
from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.base import save_autoencoder
from fastsynth.diffusion.perceptual import PerceptualDistance
from fastsynth.loops import Progress

SHOWN_EVERY = 50
"""Steps between updates of the figures on the progress bar."""


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of 38 px: (B, 3, H, W) in [-1, 1] to (B, 1, H/8, W/8) logits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            convolution = nn.utils.parametrizations.spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            layers += [convolution, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class AdversarialTraining:
    """An autoencoder in training below `output`, continued from its last checkpoint there.

    Of `model` what requires gradients learns. What is random is up to the global state, which gives the judge's first
    weights, and to the caller, who draws the batches from the numbers of `steps`.
    """

    def __init__(
        self,
        model: CompactAutoencoder,
        *,
        output: Path,
        max_train_steps: int,
        warmup_steps: int,
        learning_rate: float,
        judge_learning_rate: float,
        ema_decay: float,
        save_every: int,
    ) -> None:
        self.output, self.max_train_steps, self.save_every = output, max_train_steps, save_every
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.judge = PatchDiscriminator()
        self.perceptual = PerceptualDistance(out_indices=(0, 1, 2, 3)).to(self.device)
        for part in (model, self.judge, self.perceptual):
            part.to(memory_format=torch.channels_last)  # faster on the CPU
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, learning_rate, weight_decay=1e-4)
        self.judge_optimizer = torch.optim.AdamW(self.judge.parameters(), judge_learning_rate, betas=(0.5, 0.9))
        self.schedule = get_scheduler(
            "cosine", self.optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_train_steps
        )
        self.ema = EMAModel(model.parameters(), decay=ema_decay)
        prepared = self.accelerator.prepare(model, self.judge, self.optimizer, self.judge_optimizer, self.schedule)
        self.model, self.judge, self.optimizer, self.judge_optimizer, self.schedule = prepared
        self.ema.to(self.device)
        self.progress = Progress()
        self.shown: dict[str, Tensor] = {}
        self.accelerator.register_for_checkpointing(self.ema, self.progress)
        load_checkpoint(self.accelerator, output)

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are left; after each the training is saved, if it is time."""
        bar = tqdm(total=self.max_train_steps, initial=self.progress.step, desc=self.output.name)
        while self.progress.step < self.max_train_steps:
            yield self.progress.step
            self.progress.step += 1
            bar.update()
            if self.progress.step % SHOWN_EVERY == 0:
                bar.set_postfix({name: f"{value.item():.4f}" for name, value in self.shown.items()})
            if self.progress.step % self.save_every == 0 or self.progress.step == self.max_train_steps:
                # the model first: where the last checkpoint is, a model is too
                self._export()
                save_checkpoint(self.accelerator, self.output, step=self.progress.step)

    def believed(self, pictures: Tensor, *, mask: Tensor) -> Tensor:
        """How far the judge takes the model's pictures for real inside the mask (B, 1, H/8, W/8): a scalar."""
        self.judge.requires_grad_(False)
        logits = self.judge(pictures)
        self.judge.requires_grad_(True)
        return _inside_mean(logits, mask)

    def learn(self, loss: Tensor, **shown: Tensor) -> None:
        """One step of the model. shown: scalars for the progress bar."""
        self.shown = shown
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())

    def learn_to_judge(self, real: Tensor, made: Tensor, *, mask: Tensor) -> None:
        """One step of the judge, on real pictures and the model's, inside the mask (hinge)."""
        doubt = _inside_mean(functional.relu(1 - self.judge(real)), mask)
        belief = _inside_mean(functional.relu(1 + self.judge(made.detach())), mask)
        self.accelerator.backward(doubt + belief)
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad()

    @property
    def exported(self) -> Path:
        """Folder of the model as of the last checkpoint."""
        return self.output / "model"

    def _export(self) -> None:
        """Save the averaged weights in half precision; the model in training stays as it was."""
        model = self.accelerator.unwrap_model(self.model)
        averaged = CompactAutoencoder.from_config(model.config)
        averaged.load_state_dict(model.state_dict())
        self.ema.copy_to(averaged.parameters())
        save_autoencoder(averaged, self.exported)


def _inside_mean(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, 1, h, w) over the mask of each picture, then over the batch."""
    return ((logits * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)).mean()
