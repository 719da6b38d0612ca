"""Trees of a few tiny images, as users bring them; a configuration of a few seconds; the command line."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fastsynth.images import encode_png

os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # else trainings would round differently on machines with AMX


def _texture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(60, 160, (40, 48, 3), np.uint8)


def _scratch(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with a bright bar on it, and the bar's mask."""
    mask = np.zeros(image.shape[:2], np.uint8)
    top, left = rng.integers(4, 24, 2)
    mask[top : top + 6, left : left + 12] = 255
    return np.where(mask[..., None] > 0, 250, image).astype(np.uint8), mask


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels))


def _make_tiny_tree(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for i in range(count):
            _save(root / part / "good" / f"{part}{i:02d}.png", _texture(rng))
    for defect in ("blob", "crack"):
        for i in range(6):
            image, mask = _scratch(_texture(rng), rng)
            _save(root / "test" / defect / f"{defect}{i:02d}.png", image)
            _save(root / "ground_truth" / defect / f"{defect}{i:02d}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def checker() -> Path:
    """A program of another maker that checks a store: PROGRAM STORE DATA [--split SPLIT.json] [--expect SAMPLES]."""
    if (program := os.environ.get("FASTSYNTH_CHECKER")) is None:
        pytest.skip("FASTSYNTH_CHECKER does not name a program that checks stores")
    return Path(program)


@pytest.fixture
def tiny_tree(tmp_path: Path) -> Path:
    """An MVTec category `tile`: 10 normal images to train, 4 to test, 6 cracks and 6 blobs with masks; 48×40 RGB."""
    return _make_tiny_tree(tmp_path / "tile")


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory) -> Path:
    """The same as `tiny_tree`, once for all tests that only read it."""
    return _make_tiny_tree(tmp_path_factory.mktemp("data") / "tile")


@pytest.fixture
def plain_folders(tiny_tree: Path, tmp_path: Path) -> Path:
    """The same defects and the 10 normal images as plain folders; masks have the very names of their images."""
    root = tmp_path / "plain parts"
    (tiny_tree / "train" / "good").rename(_parent(root / "normal"))
    for defect in ("blob", "crack"):
        (tiny_tree / "test" / defect).rename(_parent(root / "defects" / defect))
        (tiny_tree / "ground_truth" / defect).rename(_parent(root / "masks" / defect))
        for mask in sorted((root / "masks" / defect).iterdir()):
            mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    return root


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory) -> Path:
    """Folder of an untrained autoencoder of 4 latent channels."""
    import torch

    from fastsynth.diffusion.autoencoder import CompactAutoencoder

    folder = tmp_path_factory.mktemp("weights") / "autoencoder"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CompactAutoencoder(latent_channels=4, encoder_widths=(8, 8), decoder_widths=(8, 8, 8, 8)).save_pretrained(
            folder
        )
    return folder


@pytest.fixture(scope="session")
def write_config(tiny_autoencoder) -> Callable[[Path, Path], Path]:
    """Writes `config.yaml` into a folder, for data at a root: every stage takes about a second; the run is `run`."""

    def write(folder: Path, root: Path) -> Path:
        values = {
            "output": str(folder / "run"),
            "data": {"root": str(root)},
            "device": "cpu",
            "renderer": {
                "crop_size": 32,
                "base": {
                    "autoencoder": str(tiny_autoencoder),
                    "pretrained": None,
                    "fresh": {"block_out_channels": [16, 16], "token_width": 16, "layers_per_block": 1},
                },
                "training": {
                    "max_train_steps": 3,
                    "batch_size": 4,
                    "defect_crops": 8,
                    "normal_crops": 4,
                    "save_every": 2,
                },
                "num_inference_steps": 2,
            },
            "generate": {
                "count": 10,
                "gate": {"enabled": False},
            },  # three steps of training draw what no gate lets pass
            "segment": {
                "encoder_name": "tu-mobilenetv3_small_050",
                "encoder_weights": None,
                "decoder_channels": [16, 8, 8, 8, 8],
                "crop_size": 32,
                "tile": 64,
                "overlap": 8,
                "batch_size": 2,
                "iterations": 2,
                "validate_every": 2,
            },
            "compare": {"seeds": [0], "synthetic_only": False},
        }
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@dataclass(frozen=True)
class Answer:
    """What a command left behind. code: exit code, or minus the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that tells the user what is wrong; a traceback is never one."""
        assert "Traceback" not in self.err, self.err
        (line,) = {line for line in self.err.splitlines() if line.startswith("fastsynth: ")}
        return line


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class CommandLine:
    """Runs `fastsynth` as processes of their own, forked from one that has imported everything.

    So a command costs milliseconds instead of the ten seconds of its imports, and is as real as any other process:
    it has its own arguments, output, limits and exit code, and can be killed. Several at once know of one another
    what torchrun and `accelerate launch` would tell them.
    """

    SERVER = """
import gc, json, os, resource, signal, sys, traceback
import fastsynth.recipes.augmenting, fastsynth.recipes.whole, fastsynth.cli
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    count, rank, children = job["processes"], 0, []
    while rank < count and (not children or children[-1]):
        children.append(os.fork())
        rank += 1
    if children[-1] == 0:
        rank -= 1
        if count > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": job["port"]}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        suffix = str(rank or "")
        for handle, path in ((0, os.devnull), (1, job["out"] + suffix), (2, job["err"] + suffix)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), handle)
        os.chdir(job["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
        if job["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], resource.RLIM_INFINITY))
        sys.argv = ["fastsynth", *job["arguments"]]
        code = 0
        try:
            exec(job["program"] or "fastsynth.cli.main()")
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)  # taking all modules down would cost more than most commands
    print(children[0], flush=True)
    print(max((os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children), key=abs), flush=True)
"""

    def __init__(self, folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with (folder / "imports").open("w") as imports:
            self._server = subprocess.Popen(
                [sys.executable, "-c", self.SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=imports,
                text=True,
                # threads do not survive a fork
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
            )
        self._read()
        self.said_while_importing = (folder / "imports").read_text()
        self._folder = folder

    def __call__(self, *arguments: object, **settings: Any) -> Answer:
        """Run a command to its end. settings: those of `start`."""
        self.start(*arguments, **settings)
        return self.wait()

    def start(
        self,
        *arguments: object,
        folder: Path | None = None,
        largest_file: int | None = None,
        processes: int = 1,
        program: str = "",
    ) -> int:
        """Start a command; returns the id of its first process. `wait` must follow.

        largest_file: bytes, the disk is full beyond them. processes: how many are launched together; the exit code is
        the worst, the output that of the first. program: Python to run in place of the command line.
        """
        job = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder or self._folder),
            "largest_file": largest_file,
            "processes": processes,
            "program": program,
            "port": _free_port(),
            "out": str(self._out),
            "err": str(self._err),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._read())

    def wait(self) -> Answer:
        code = int(self._read())
        return Answer(code, self._out.read_text(), self._err.read_text())

    def stop_when(self, reached: Callable[[], bool], *arguments: object, by: signal.Signals) -> Answer:
        """Run a command and send it a signal as soon as `reached` says so, unless it has ended before."""
        process = self.start(*arguments)
        with contextlib.suppress(ProcessLookupError):
            while not reached():
                os.kill(process, 0)  # is it still there?
                time.sleep(0.001)
            os.kill(process, by)
        return self.wait()

    def close(self) -> None:
        self._server.communicate()

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


@pytest.fixture
def call(monkeypatch, capfd) -> Callable[..., Answer]:
    """The command line inside the test's own process: for what neither works long nor imports much."""

    def call(*arguments: object) -> Answer:
        from fastsynth.cli import main

        monkeypatch.setattr(sys, "argv", ["fastsynth", *map(str, arguments)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets its own
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def cli(tmp_path_factory) -> Iterator[CommandLine]:
    """The command line: `cli("config", "check", path).code`."""
    command_line = CommandLine(tmp_path_factory.mktemp("command line"))
    yield command_line
    command_line.close()
