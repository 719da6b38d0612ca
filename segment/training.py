"""Training a segmenter: balanced crops, AdamW on a warmed-up cosine, averaged weights judged on validation images.

A run's folder: `checkpoints/checkpoint-<iteration>/` while it runs, then `segmenter/` (the kept weights) and, last,
`result.json`. The same call continues an interrupted run and returns a finished one; on the CPU the weights are
those of an uninterrupted run.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from fastsynth.augment import A, build_augmentation
from fastsynth.checkpoints import asked_to_stop, disk_errors, load_checkpoint, save_checkpoint
from fastsynth.config import config_sha256
from fastsynth.files import read_json, sha256_file, sha256_json, write_json
from fastsynth.locks import lock_for_all
from fastsynth.loops import averaged
from fastsynth.parallel import gather_batch, own_slice, share_batch_statistics
from fastsynth.stopping import gentle_stop
from fastsynth.types import sample_seed
from segment.config import SegmentConfig
from segment.data import CropDataset, TrainingItem, decode_item
from segment.losses import LossFunction, build_loss
from segment.metrics import Scores, score_image
from segment.mining import find_hard_negatives, mining_iterations
from segment.models import build_segmenter, load_segmenter, save_segmenter
from segment.predict import predict

RESULT_FILE = "result.json"


@dataclass(frozen=True, eq=False)
class SegmenterResult:
    """model: in evaluation mode. threshold, val_miou: of the kept weights, both on validation images.

    iterations: done, all of them unless `patience` ran out. seconds: of training, over all resumed parts.
    history: one {iteration, loss, val_miou, threshold} per validation.
    """

    model: nn.Module
    threshold: float
    val_miou: float
    iterations: int
    seconds: float
    history: list[dict[str, float]]


@dataclass
class Progress:
    """How far a run is; part of its checkpoint."""

    iteration: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Since the last validation."""
    history: list[dict[str, float]] = field(default_factory=list)
    hard_negatives: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.int64))
    """As `segment.mining` found them last."""
    kept: dict[str, float] = field(default_factory=lambda: {"val_miou": -1.0})
    kept_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def stale(self) -> int:
        """Validations since the kept one."""
        return sum(entry["iteration"] > self.kept["iteration"] for entry in self.history)


def train_segmenter(
    items: Sequence[TrainingItem],
    val_items: Sequence[TrainingItem],
    *,
    config: SegmentConfig,
    folder: Path,
    seed: int,
    device: str = "auto",
    augmentation: A.Compose | None = None,
    on_iteration: Callable[[int], None] | None = None,
) -> SegmenterResult:
    """Train one segmenter into `folder`, or continue, or return what is finished there.

    Asked to stop, it finishes the step, saves it and raises KeyboardInterrupt. Several processes share each batch.

    items: normal and defect images to draw crops from.
    val_items: choose the threshold and, with `patience`, the checkpoint; never test images.
    device: "cpu", or "auto" for what accelerate finds.
    augmentation: in place of `config.augment`.
    on_iteration: is told how many iterations are done, in place of a progress bar.

    Raises ValueError when `folder` is in use or holds a run with other settings or images, or the items do not make a
    batch; ChildProcessError when a worker that reads crops dies.
    """
    augmentation = augmentation or build_augmentation(config.augment)
    fingerprint = _fingerprint(items, val_items, config=config, augmentation=augmentation, seed=seed)
    if (folder / RESULT_FILE).is_file():
        return _finished(folder, fingerprint)
    with lock_for_all(folder), _worker_errors(folder), gentle_stop() as stop:
        accelerator = Accelerator(cpu=device == "cpu")
        model = build_segmenter(
            arch=config.arch,
            encoder_name=config.encoder_name,
            encoder_weights=config.encoder_weights,
            decoder_channels=config.decoder_channels,
            seed=seed,
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        _claim(folder, fingerprint)  # now that the settings are known to make a segmenter
        if accelerator.num_processes > 1:
            share_batch_statistics(model)
            # of channels_last weights in buckets: no error, torch says, but it would say so at every start
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        warmup = config.iterations // 20
        scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=config.iterations)
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        plain = accelerator.unwrap_model(model)
        ema = EMAModel(model.parameters(), decay=config.ema_decay)
        progress = Progress()
        accelerator.register_for_checkpointing(ema, progress)
        load_checkpoint(accelerator, folder, made_from=fingerprint)

        crops = CropDataset(
            items,
            augmentation=augmentation,
            crop_size=config.crop_size,
            batch_size=config.batch_size,
            normal_share=config.normal_share,
            synthetic_ratio=config.synthetic_ratio,
            synthetic_batches=round(config.synthetic_until * config.iterations),
            random_share=config.random_share,
            hard_negative_share=config.hard_negative_share,
            source_share=config.source_share,
            zoom=config.zoom,
            cache_bytes=config.cache_megabytes * 2**20,
            seed=seed,
        )

        def mine() -> torch.Tensor:
            with averaged(list(plain.parameters()), ema):
                return find_hard_negatives(
                    plain, crops, tile=config.tile, overlap=config.overlap, seed=(seed, progress.iteration)
                )

        batches = _batches(
            crops, progress=progress, mine=mine, config=config, own=own_slice(accelerator, config.batch_size)
        )
        loss_function = build_loss(config.loss)
        bar = tqdm(
            total=config.iterations,
            initial=progress.iteration,
            disable=on_iteration is not None or not accelerator.is_main_process,
            desc=f"{folder.parent.name} {folder.name}",
            unit="it",
        )
        started = time.perf_counter()
        for batch in batches:
            model.train()
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            with torch.random.fork_rng():
                # dropout draws from the global state; one seed per iteration needs no random state in the checkpoint
                torch.manual_seed(sample_seed(seed, progress.iteration, accelerator.process_index))
                loss = _step(model, batch, loss_function, optimizer=optimizer, accelerator=accelerator)
            scheduler.step()
            ema.step(model.parameters())
            progress.losses.append(loss)
            progress.iteration += 1
            bar.update()
            if on_iteration is not None:
                on_iteration(progress.iteration)
            judged = progress.iteration % config.validate_every == 0 or progress.iteration == config.iterations
            if judged:
                _judge(plain, ema, val_items, progress=progress, config=config)
                entry = progress.history[-1]
                bar.set_postfix(loss=f"{entry['loss']:.3f}", val_miou=f"{progress.kept['val_miou']:.3f}")
            stopped = asked_to_stop(accelerator, stop)
            if judged or stopped:
                progress.seconds += time.perf_counter() - started
                started = time.perf_counter()
                save_checkpoint(accelerator, folder, step=progress.iteration, made_from=fingerprint)
            if stopped:
                raise KeyboardInterrupt
            if judged and config.patience is not None and progress.stale() >= config.patience:
                break
        bar.close()
        if accelerator.is_main_process:
            _finish(plain, progress, folder, augmentation=augmentation)
        accelerator.wait_for_everyone()
    return _finished(folder, fingerprint)


def score_items(model: nn.Module, items: Sequence[TrainingItem], *, tile: int = 256, overlap: int = 32) -> Scores:
    """Predict every item at native size and count. Items are told apart by their image path."""
    images = []
    for item in items:
        decoded = decode_item(item)
        probability = predict(model, decoded.image, tile=tile, overlap=overlap)
        name = item.image_path.as_posix()
        scored = score_image(probability, decoded.foreground, name=name, defect=item.defect, group=item.group)
        images.append(scored)
    return Scores(images)


def is_finished(
    folder: Path,
    items: Sequence[TrainingItem],
    val_items: Sequence[TrainingItem],
    *,
    config: SegmentConfig,
    seed: int,
) -> bool:
    """Whether `train_segmenter` would return what is in `folder`, and neither train nor refuse. Arguments as there."""
    if not (folder / RESULT_FILE).is_file():
        return False
    augmentation = build_augmentation(config.augment)
    wanted = _fingerprint(items, val_items, config=config, augmentation=augmentation, seed=seed)
    return bool(read_json(folder / "run.json")["fingerprint"] == wanted)


def _batches(
    crops: CropDataset,
    *,
    progress: Progress,
    mine: Callable[[], torch.Tensor],
    config: SegmentConfig,
    own: slice,
) -> Iterator[dict[str, torch.Tensor]]:
    """The batches that are left, of each the `own` crops. In between photographs are looked through by `mine`."""
    pauses = mining_iterations(config.iterations) if config.hard_negative_share and config.normal_share else []
    places = range(config.batch_size)[own]
    while progress.iteration < config.iterations:
        if progress.iteration in pauses:
            progress.hard_negatives = mine()
        crops.hard_negatives = progress.hard_negatives
        pause = min(i for i in (*pauses, config.iterations) if i > progress.iteration)
        batches = range(progress.iteration, pause)
        numbers = [batch * config.batch_size + place for batch in batches for place in places]
        yield from DataLoader(crops, batch_size=len(places), sampler=numbers, num_workers=config.num_workers)


def _step(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    loss_function: LossFunction,
    *,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> float:
    logits = model(batch["image"].contiguous(memory_format=torch.channels_last))
    loss = loss_function(gather_batch(accelerator, logits), gather_batch(accelerator, batch["foreground"]))
    accelerator.backward(accelerator.num_processes * loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _judge(
    model: nn.Module,
    ema: EMAModel,
    val_items: Sequence[TrainingItem],
    *,
    progress: Progress,
    config: SegmentConfig,
) -> None:
    """Score the averaged weights on the validation images; keep them, with `patience` only if they are the best."""
    with averaged(list(model.parameters()), ema):
        scores = score_items(model, val_items, tile=config.tile, overlap=config.overlap)
        kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    threshold = scores.chosen_threshold()
    entry = {
        "iteration": progress.iteration,
        "loss": sum(progress.losses) / len(progress.losses),
        "val_miou": scores.miou(threshold),
        "threshold": threshold,
    }
    progress.losses.clear()
    progress.history.append(entry)
    if config.patience is None or entry["val_miou"] > progress.kept["val_miou"]:
        progress.kept, progress.kept_weights = entry, kept


def _fingerprint(
    items: Sequence[TrainingItem],
    val_items: Sequence[TrainingItem],
    *,
    config: SegmentConfig,
    augmentation: A.Compose,
    seed: int,
) -> str:
    """Hash of everything the weights depend on; images by name and size, so that a moved data set stays the same, masks
    by their content, which annotators correct."""

    def describe(item: TrainingItem) -> list[Any]:
        named = [item.image_path.name, item.image_path.stat().st_size, item.defect, item.synthetic, item.halo]
        mask = [sha256_file(item.mask_path)] if item.mask_path else []
        return [*named, *mask, item.source_path.name] if item.source_path else [*named, *mask]

    described = [[describe(item) for item in part] for part in (items, val_items)]
    return sha256_json([config_sha256(config), repr(augmentation), seed, described])


def _claim(folder: Path, fingerprint: str) -> None:
    """Mark the folder as this run's, or refuse it as another's."""
    mark = folder / "run.json"
    if mark.is_file():
        _check(folder, read_json(mark)["fingerprint"], fingerprint)
    write_json(mark, {"fingerprint": fingerprint})


def _check(folder: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(
            f"{folder} holds a run with other settings, images or seed; choose another folder or delete this one"
        )


def _finish(model: SegmentationModel, progress: Progress, folder: Path, *, augmentation: A.Compose) -> None:
    model.load_state_dict(progress.kept_weights)
    with disk_errors(folder):
        save_segmenter(model, folder / "segmenter", threshold=progress.kept["threshold"], augmentation=augmentation)
    result = {
        "threshold": progress.kept["threshold"],
        "val_miou": progress.kept["val_miou"],
        "iterations": progress.iteration,
        "seconds": progress.seconds,
        "history": progress.history,
    }
    write_json(folder / RESULT_FILE, result)
    shutil.rmtree(folder / "checkpoints")


@contextmanager
def _worker_errors(folder: Path) -> Iterator[None]:
    """A worker that died, of too little memory as a rule and maybe while it is heard, is no fault of the program."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        said = str(error) if isinstance(error, RuntimeError) else f"DataLoader worker is gone ({error})."
        raise ChildProcessError(
            f"{folder}: {said} Lower segment.num_workers if memory is short; the same command continues"
        ) from error


def _finished(folder: Path, fingerprint: str) -> SegmenterResult:
    _check(folder, read_json(folder / "run.json")["fingerprint"], fingerprint)
    return SegmenterResult(load_segmenter(folder / "segmenter").model, **read_json(folder / RESULT_FILE))
