"""The one training loop of the layout renderers; what CRN and pix2pixHD do not share is a `Task`.

Everything random in a step comes from (seed, step), and a checkpoint holds weights, optimisers, learning rates,
averages and what the task wants to remember: a resumed training ends where an uninterrupted one does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from fastsynth.checkpoints import asked_to_stop, load_checkpoint, save_checkpoint
from fastsynth.loops import Progress, averaged
from fastsynth.parallel import mean_over_processes, own_slice
from fastsynth.precision import own_precision, training_precision
from fastsynth.stopping import gentle_stop
from generators.batches import Batch, Source
from generators.losses import LayerWeights, layer_terms
from generators.perceptual import PerceptualTrunk

LOG_EVERY = 10
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class LoopSettings:
    """The rest as in `TrainingConfig`.

    decay_share: last share of the steps in which the learning rates fall to 0. made_from: hash of settings and data;
    what another training left is refused.
    """

    batch_size: int
    gradient_accumulation_steps: int
    ema_decay: float
    decay_share: float
    save_every: int
    sample_every: int
    seed: int
    device: str
    made_from: str = ""


class Task(ABC):
    """One stage of a renderer's training.

    players: modules with an optimiser each; the first one draws, and is averaged.
    rates, betas: of each player's Adam. states: what else a checkpoint holds. shown: parts of the last losses.
    freezes: in some of the steps parts of the players get no gradients.
    """

    players: list[nn.Module]
    rates: tuple[float, ...]
    betas: tuple[float, float]
    freezes = False
    shown: dict[str, Tensor]

    def __init__(self, trunk: PerceptualTrunk, weights: LayerWeights, *, calibration_steps: int) -> None:
        self.trunk, self.weights, self.calibration_steps = trunk, weights, calibration_steps
        self.states: list[Any] = [weights]
        self.shown = {}

    def start_step(self, step: int) -> None:
        """Freeze or thaw parts; called before every step, also the first one after a resumption."""
        if step == self.calibration_steps > 0:
            self.weights.freeze()

    @abstractmethod
    def losses(self, batch: Batch, *, step: int, generator: torch.Generator) -> Iterator[Tensor]:
        """One loss per player, in their order; gradients are computed before the next one is asked for."""

    @abstractmethod
    def samples(self, batch: Batch) -> list[Tensor]:
        """Pictures for a sheet, each (B, 3, H, W) in [-1, 1]."""

    def numbers(self) -> dict[str, Any]:
        """For the log, every few steps."""
        return {name: round(float(value), 5) for name, value in self.shown.items()}

    def calibrate(self, features: list[Tensor], target: list[Tensor], *, step: int) -> None:
        """In the first steps: watch how large each layer's term is. Both L maps of one shape."""
        if step < self.calibration_steps:
            self.weights.observe(mean_over_processes(layer_terms([f.detach() for f in features], target)))


@own_precision()
def fit(
    task: Task,
    source: Source,
    *,
    shrink: int,
    steps: int,
    output: Path,
    settings: LoopSettings,
    name: str,
    log: Log,
    show: Callable[[int, Task], None],
) -> float:
    """Train `task` to `steps`, continuing from the last checkpoint below `output`; returns seconds of training.

    The first player ends up with the averaged weights. Asked to stop, it finishes the step, saves it and raises
    KeyboardInterrupt. Several processes share each batch. shrink: how much smaller than the source the pictures are.
    log: gets step, the first player's learning rate and losses every few steps. show: draws a sheet, with averaged
    weights in place.
    """
    accelerator = _accelerator(task, settings)
    optimizers = _prepare(accelerator, task)
    drawer = task.players[0]
    ema, progress = EMAModel(drawer.parameters(), decay=settings.ema_decay), Progress()
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema, progress, *task.states)
    load_checkpoint(accelerator, output, made_from=settings.made_from)

    hidden = not accelerator.is_main_process
    with (
        tqdm(total=steps, initial=progress.step, desc=f"train {name}", disable=hidden) as bar,
        gentle_stop() as stop,
    ):
        while progress.step < steps:
            factor = decay_factor(progress.step, steps=steps, decay_share=settings.decay_share)
            for optimizer, rate in zip(optimizers, task.rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * factor
            _step(accelerator, task, optimizers, source, step=progress.step, shrink=shrink, settings=settings)
            ema.step(drawer.parameters())

            progress.step += 1
            bar.update()
            last = progress.step == steps
            if progress.step % LOG_EVERY == 0 or last:
                numbers = task.numbers()
                bar.set_postfix({key: f"{value:.3f}" for key, value in numbers.items() if isinstance(value, float)})
                log({"step": progress.step, "learning_rate": optimizers[0].param_groups[0]["lr"], **numbers})
            if not hidden and (progress.step % settings.sample_every == 0 or last):
                with averaged(list(drawer.parameters()), ema), torch.no_grad():
                    show(progress.step, task)
            stopped = asked_to_stop(accelerator, stop)
            if stopped or progress.step % settings.save_every == 0 or last:
                save_checkpoint(accelerator, output, step=progress.step, made_from=settings.made_from)
            if stopped:
                raise KeyboardInterrupt
    ema.copy_to(drawer.parameters())
    _release(accelerator, task)
    return progress.seconds


def _accelerator(task: Task, settings: LoopSettings) -> Accelerator:
    # the wrapper of several processes waits for the gradients of all parameters unless told to look for those that
    # take part; looking costs a walk through the graph
    wrapper = DistributedDataParallelKwargs(find_unused_parameters=task.freezes)
    return Accelerator(
        cpu=settings.device == "cpu",
        mixed_precision=training_precision(settings.device),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        kwargs_handlers=[wrapper],
    )


def _release(accelerator: Accelerator, task: Task) -> None:
    """Unwrap the players and freeze them."""
    task.players[:] = [accelerator.unwrap_model(player, keep_fp32_wrapper=False) for player in task.players]
    for player in task.players:
        player.eval().requires_grad_(False)


def _prepare(accelerator: Accelerator, task: Task) -> list[torch.optim.Optimizer]:
    """Move the task to the device, its players wrapped by accelerate; returns an optimiser per player."""
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=rate, betas=task.betas)
        for player, rate in zip(task.players, task.rates, strict=True)
    ]
    count = len(task.players)
    prepared = accelerator.prepare(*task.players, *optimizers)
    task.players[:] = prepared[:count]
    task.trunk.to(accelerator.device)
    task.weights.to(accelerator.device)
    return list(prepared[count:])


def _step(
    accelerator: Accelerator,
    task: Task,
    optimizers: Sequence[torch.optim.Optimizer],
    source: Source,
    *,
    step: int,
    shrink: int,
    settings: LoopSettings,
) -> None:
    """One step of every player, on `gradient_accumulation_steps` batches."""
    task.start_step(step)
    own = own_slice(accelerator, settings.batch_size)
    for part in range(settings.gradient_accumulation_steps):
        rng = np.random.default_rng((settings.seed, step, part))
        batch = source.draw(settings.batch_size, shrink=shrink, rng=rng).part(own).to(accelerator.device)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)) + accelerator.process_index)
        with accelerator.accumulate(*task.players):
            for loss in task.losses(batch, step=step, generator=generator):
                accelerator.backward(loss)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()


def decay_factor(step: int, *, steps: int, decay_share: float) -> float:
    """Of the learning rate: 1, and in the last `decay_share` of the steps linearly down to 1 step before 0."""
    return min(1.0, (steps - step) / max(steps * decay_share, 1.0))
