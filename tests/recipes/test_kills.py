"""kill -9 at random moments, again and again: what comes out in the end is what an uninterrupted command makes."""

import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Killer:
    """Runs a command again and again and kills it at random moments, evenly over the time that it takes.

    finished: called when the command came to its end before the kill; checks what it made and may clear it away.
    """

    def __init__(self, cli, *arguments: object, within: float, finished: Callable[[], None]) -> None:
        self.cli, self.arguments, self.within, self.finished = cli, arguments, within, finished
        self.rng = np.random.default_rng(0)

    def kill(self, times: int) -> None:
        """Until so many have really been killed; what one leaves behind, the next one goes on with."""
        killed = 0
        while killed < times:
            end = time.monotonic() + self.rng.uniform(0, self.within)
            answer = self.cli.stop_when(lambda end=end: time.monotonic() > end, *self.arguments, by=signal.SIGKILL)
            assert answer.code in (0, -signal.SIGKILL), answer.err
            if answer.code == 0:
                self.finished()
            else:
                killed += 1


def seconds(command) -> float:
    started = time.monotonic()
    assert command().code == 0
    return time.monotonic() - started


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("-s", value)]


@pytest.mark.parametrize("gate", ["true", "false"])
def test_generate_under_twenty_kills(gate, cli, write_config, shared_tree, tmp_path, contents):
    options = settings("renderer={kind: copy_paste}", "generate.count=64", f"generate.gate.enabled={gate}")
    configs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, shared_tree)
    took = seconds(lambda: cli("generate", configs["whole"], *options))
    store = tmp_path / "killed" / "run" / "synthetic"

    def start_over() -> None:
        assert contents(store) == contents(tmp_path / "whole" / "run" / "synthetic")
        shutil.rmtree(store)

    Killer(cli, "generate", configs["killed"], *options, within=took, finished=start_over).kill(20)
    assert cli("generate", configs["killed"], *options).code == 0
    start_over()


def test_shards_under_kills(cli, write_config, shared_tree, tmp_path, contents):
    options = settings("renderer={kind: copy_paste}", "generate.count=64", "generate.gate.enabled=true")
    configs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, shared_tree)
    took = seconds(lambda: cli("generate", configs["whole"], *options))
    stores = [tmp_path / name / "run" / "synthetic" for name in configs]
    for part in ("1/3", "3/3", "2/3"):
        arguments = ("generate", configs["killed"], *options, "--shard", part)
        Killer(cli, *arguments, within=took, finished=lambda: None).kill(5)
        assert cli(*arguments).code == 0
    assert contents(stores[1]) == contents(stores[0])


def test_train_under_kills(cli, write_config, shared_tree, tmp_path, contents):
    options = settings("renderer.training.max_train_steps=40", "renderer.training.save_every=5")
    configs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, shared_tree)
    took = seconds(lambda: cli("train", configs["whole"], *options))

    def weights(name: str) -> dict[str, bytes]:
        files = contents(tmp_path / name / "run" / "model")
        return {file: data for file, data in files.items() if file.endswith(".safetensors")}

    def start_over() -> None:
        assert weights("killed") == weights("whole")
        shutil.rmtree(tmp_path / "killed" / "run")

    assert weights("whole")
    Killer(cli, "train", configs["killed"], *options, within=took, finished=start_over).kill(14)
    assert cli("train", configs["killed"], *options).code == 0
    start_over()


def test_segment_under_kills(cli, write_config, shared_tree, tmp_path):
    options = settings("segment.iterations=24", "segment.validate_every=4")
    commands = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        commands[name] = ["segment", "train", write_config(tmp_path / name, shared_tree), *options]
    took = seconds(lambda: cli(*commands["whole"]))

    def start_over() -> None:
        for file in ("segmenter/model.safetensors", "scores.npz"):
            one, other = (tmp_path / name / "run/segment/real/seed-0" / file for name in commands)
            assert one.read_bytes() == other.read_bytes()
        shutil.rmtree(tmp_path / "killed" / "run")

    Killer(cli, *commands["killed"], within=took, finished=start_over).kill(14)
    assert cli(*commands["killed"]).code == 0
    start_over()


@pytest.mark.parametrize("kind", ["coco", "webdataset", "mvtec"])
def test_export_under_kills(kind, cli, write_config, shared_tree, tmp_path, contents):
    config = write_config(tmp_path, shared_tree)
    assert cli("generate", config, *settings("renderer={kind: copy_paste}", "generate.count=100")).code == 0
    store = tmp_path / "run" / "synthetic"

    def arguments(name: str) -> list[object]:
        return ["data", "export", store, "--format", kind, "--data", shared_tree, "--output", tmp_path / name]

    took = seconds(lambda: cli(*arguments("whole")))

    def start_over() -> None:
        assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
        shutil.rmtree(tmp_path / "killed")

    killer = Killer(cli, *arguments("killed"), within=took, finished=start_over)
    for _ in range(8):
        killer.kill(1)
        if (tmp_path / "killed").exists():  # killed after the last rename
            start_over()
    assert cli(*arguments("killed")).code == 0
    start_over()
    assert not list(tmp_path.glob(".tmp-*"))
