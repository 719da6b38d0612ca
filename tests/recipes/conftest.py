"""One whole run, made once: everything is judged on it or on copies of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hand_drawn import SOURCE, drawer, fill

from fastsynth.files import atomic_write
from fastsynth.images import encode_png


@dataclass(frozen=True)
class TinyRun:
    """A run's folder, its configuration and its data. said: what the command printed."""

    folder: Path
    config: Path
    data: Path
    said: str = ""

    @property
    def store(self) -> Path:
        return self.folder / "synthetic"


@pytest.fixture(scope="session")
def whole_run(cli, write_config, shared_tree, tmp_path_factory) -> TinyRun:
    """`fastsynth run` from nothing to the report; 10 samples. Do not change it."""
    folder = tmp_path_factory.mktemp("whole run")
    config = write_config(folder, shared_tree)
    answer = cli("run", config)
    assert answer.code == 0, answer.err
    return TinyRun(folder / "run", config, shared_tree, answer.out)


@pytest.fixture
def copied_run(whole_run, write_config, tmp_path) -> TinyRun:
    """The trained and filled run at another place, to be changed at will."""
    shutil.copytree(whole_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("segment", "cache"))
    return TinyRun(tmp_path / "run", write_config(tmp_path, whole_run.data), whole_run.data)


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Relative path → bytes of every file below a folder."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read


@pytest.fixture
def data_root(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(90, 111, (64, 72, 3)).astype(np.uint8)
    atomic_write(tmp_path / "data" / SOURCE, encode_png(pixels))
    return tmp_path / "data"


@pytest.fixture
def whole(tmp_path, data_root, contents) -> dict[str, bytes]:
    """What a store holds that was filled in one go."""
    fill(tmp_path / "whole", data_root, drawer(data_root))
    return contents(tmp_path / "whole")


@pytest.fixture(scope="session")
def launch() -> Callable[..., None]:
    """Runs a command in two processes under `accelerate launch`, as users do."""

    def run(*arguments: object) -> None:
        options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--dynamo_backend", "no"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        answer = subprocess.run(
            [*command, "-m", "fastsynth", *map(str, arguments)], capture_output=True, text=True, env=environment
        )
        assert answer.returncode == 0, answer.stderr

    return run
