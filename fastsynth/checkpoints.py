"""Checkpoints of a training loop: each appears only when it is whole, the last two are kept, a damaged one is skipped.

    checkpoints/checkpoint-<step>/   weights, optimisers, schedules, averages, made_from.json, and checksums.json

With several processes the main one writes. What is written does not depend on how many there are, so a training may
go on with another number of them.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn

from fastsynth.files import read_json, sha256_file, write_json
from fastsynth.stopping import Stop

KEPT = 2
"""The newest, and one to fall back to."""
CHECKSUMS = "checksums.json"
"""Hash of every other file."""
MADE_FROM = "made_from.json"
"""Hash of what the training is made from: no other training goes on from it."""
NATIVE_WRITERS = ("PytorchStreamWriter", "inline_container.cc")
"""What torch's error says when a file could not be written."""
WRAPPER = "module."
"""What a wrapper for several processes puts before every name."""


def save_checkpoint(accelerator: Accelerator, output: Path, *, step: int, made_from: str = "") -> None:
    """Write checkpoints/checkpoint-<step> below `output`, and remove all but the last two.

    made_from: hash of the settings and data of the training. Raises OSError when the disk is full.
    """
    if accelerator.is_main_process:
        final = output / "checkpoints" / f"checkpoint-{step}"
        unfinished = output / "checkpoints" / ".unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        with _unwrapped(accelerator), disk_errors(output):
            accelerator.save_state(str(unfinished))
        write_json(unfinished / MADE_FROM, {"sha256": made_from})
        write_json(unfinished / CHECKSUMS, _checksums(unfinished))
        shutil.rmtree(final, ignore_errors=True)  # of an earlier sitting, damaged or about to be the same
        unfinished.rename(final)
        for path in _checkpoints(output)[:-KEPT]:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, output: Path, *, made_from: str = "") -> None:
    """Continue from the last whole checkpoint below `output`; without one everything stays as it is.

    Warns of damaged ones. Raises ValueError when it was saved with another `made_from`.
    """
    for path in reversed(_checkpoints(output)):
        if damaged := _damaged_file(path):
            if accelerator.is_main_process:
                warnings.warn(f"{damaged} is damaged; going on from the checkpoint before", stacklevel=2)
            continue
        _refuse_other(path, made_from)
        with _unwrapped(accelerator):
            accelerator.load_state(str(path))
        return


def asked_to_stop(accelerator: Accelerator, stop: Stop) -> bool:
    """Whether any of the processes was asked to: all of them end with the same step."""
    if accelerator.num_processes == 1:
        return stop.requested
    if stop.requested:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Weights are written by native code, which reports a full disk in its own ways; inside, it is an OSError."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(writer in str(error) for writer in NATIVE_WRITERS):
            raise
        raise OSError(f"{folder}: {error}; free some space and run the same command again") from error


@contextmanager
def _unwrapped(accelerator: Accelerator) -> Iterator[None]:
    """Inside, states are saved and loaded under the names they have without a wrapper for several processes."""

    def rename(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        for state in weights:
            for name in [name for name in state if name.startswith(WRAPPER) and accelerator.num_processes > 1]:
                state[name.removeprefix(WRAPPER)] = state.pop(name)

    def unwrap(models: list[nn.Module], folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    hooks = [accelerator.register_save_state_pre_hook(rename), accelerator.register_load_state_pre_hook(unwrap)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _checkpoints(output: Path) -> list[Path]:
    """Oldest first."""
    found = (output / "checkpoints").glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _refuse_other(path: Path, made_from: str) -> None:
    if read_json(path / MADE_FROM)["sha256"] != made_from:
        raise ValueError(
            f"{path} is of a training with other settings or images; choose another output, or delete {path.parent} "
            "to train from the start"
        )


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _damaged_file(folder: Path) -> Path | None:
    """A file that is missing or not what was written; None when all is well."""
    path = folder / CHECKSUMS
    try:
        wanted = read_json(path)
    except (ValueError, FileNotFoundError):
        return path
    found = _checksums(folder)
    return next((folder / name for name in (MADE_FROM, *wanted) if found.get(name) != wanted.get(name, "")), None)
