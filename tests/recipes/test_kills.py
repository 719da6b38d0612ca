"""kill -9 at random moments, again and again: what comes out in the end is what an uninterrupted command makes."""

import shutil
import signal
import time

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Killer:
    """Runs a command again and again and kills it at random moments, evenly over the time that it takes."""

    def __init__(self, cli, *arguments: object) -> None:
        self.cli, self.arguments = cli, arguments
        self.rng = np.random.default_rng(0)
        self.killed = 0

    def kill(self, times: int, *, within: float) -> None:
        """within: seconds that the whole command takes."""
        for _ in range(times):
            end = time.monotonic() + self.rng.uniform(0, within)
            answer = self.cli.stop_when(lambda end=end: time.monotonic() > end, *self.arguments, by=signal.SIGKILL)
            assert answer.code in (0, -signal.SIGKILL), answer.err
            self.killed += answer.code != 0


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
    killer = Killer(cli, "generate", configs["killed"], *options)
    store = tmp_path / "killed" / "run" / "synthetic"
    for _ in range(4):
        killer.kill(5, within=took)
        assert cli("generate", configs["killed"], *options).code == 0
        assert contents(store) == contents(tmp_path / "whole" / "run" / "synthetic")
        shutil.rmtree(store)
    assert killer.killed >= 15


def test_shards_under_kills(cli, write_config, shared_tree, tmp_path, contents):
    options = settings("renderer={kind: copy_paste}", "generate.count=64", "generate.gate.enabled=true")
    configs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, shared_tree)
    took = seconds(lambda: cli("generate", configs["whole"], *options))
    killed = 0
    for part in ("1/3", "3/3", "2/3"):
        killer = Killer(cli, "generate", configs["killed"], *options, "--shard", part)
        killer.kill(5, within=took)
        assert cli("generate", configs["killed"], *options, "--shard", part).code == 0
        killed += killer.killed
    stores = [tmp_path / name / "run" / "synthetic" for name in configs]
    assert contents(stores[1]) == contents(stores[0])
    assert killed >= 5


def test_train_under_kills(cli, write_config, shared_tree, tmp_path, contents):
    options = settings("renderer.training.max_train_steps=40", "renderer.training.save_every=5")
    configs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, shared_tree)
    took = seconds(lambda: cli("train", configs["whole"], *options))
    killer = Killer(cli, "train", configs["killed"], *options)
    killer.kill(14, within=took)
    assert cli("train", configs["killed"], *options).code == 0
    weights = [
        {n: d for n, d in contents(tmp_path / name / "run" / "model").items() if n.endswith(".safetensors")}
        for name in configs
    ]
    assert weights[0] == weights[1]
    assert killer.killed >= 8


def test_segment_under_kills(cli, write_config, shared_tree, tmp_path):
    options = settings("segment.iterations=24", "segment.validate_every=4")
    commands = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        commands[name] = ["segment", "train", write_config(tmp_path / name, shared_tree), *options]
    took = seconds(lambda: cli(*commands["whole"]))
    killer = Killer(cli, *commands["killed"])
    killer.kill(14, within=took)
    assert cli(*commands["killed"]).code == 0
    for file in ("segmenter/model.safetensors", "scores.npz"):
        one, other = (tmp_path / name / "run/segment/real/seed-0" / file for name in commands)
        assert one.read_bytes() == other.read_bytes()
    assert killer.killed >= 8


@pytest.mark.parametrize("kind", ["coco", "webdataset", "mvtec"])
def test_export_under_kills(kind, cli, write_config, shared_tree, tmp_path, contents):
    config = write_config(tmp_path, shared_tree)
    assert cli("generate", config, *settings("renderer={kind: copy_paste}", "generate.count=100")).code == 0
    store = tmp_path / "run" / "synthetic"

    def arguments(name: str) -> list[object]:
        return ["data", "export", store, "--format", kind, "--data", shared_tree, "--output", tmp_path / name]

    took = seconds(lambda: cli(*arguments("whole")))
    killer = Killer(cli, *arguments("killed"))
    for _ in range(8):
        killer.kill(1, within=took)
        if (tmp_path / "killed").exists():  # it was finished before the kill
            assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
            shutil.rmtree(tmp_path / "killed")
    assert cli(*arguments("killed")).code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".tmp-*"))
    assert killer.killed >= 4
