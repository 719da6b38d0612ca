"""One whole run, made once: everything is judged on it or on copies of it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


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
