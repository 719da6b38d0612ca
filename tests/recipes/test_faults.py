"""What can go wrong while a command works: it says one line, nothing is lost, and the same command goes on."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from fastsynth.data.manifest import dump_line
from fastsynth.data.store import FILE_KEYS, read_manifest
from fastsynth.locks import Lock

STOPPED = "fastsynth: stopped; run the same command again to continue"
LONG_AGO, FAR_AHEAD = 1e8, 4e9
"""1973 and 2096, in seconds."""


def with_settings(*settings: str) -> list[str]:
    return [part for value in settings for part in ("-s", value)]


def test_sigterm_finishes_the_unit_and_ends_with_130(whole_run, copied_run, cli, contents):
    begun = lambda: len(list(copied_run.store.rglob("*.png"))) > 20  # noqa: E731
    answer = cli.stop_when(begun, "generate", copied_run.config, "-s", "generate.count=500", by=signal.SIGTERM)
    assert (answer.code, answer.complaint) == (130, STOPPED)
    lines = (copied_run.store / "manifest.jsonl").read_bytes().splitlines()
    assert len(lines) % 8 == 0
    assert len(lines) < 500
    assert len(list(copied_run.store.glob("*/train/*/*"))) == len(lines)
    assert not list(copied_run.store.rglob(".tmp-*"))


def test_sigterm_saves_the_training_where_it_is(cli, write_config, shared_tree, tmp_path):
    steps = with_settings("renderer.training.max_train_steps=60", "renderer.training.save_every=1000")
    runs = {}
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
        runs[name] = write_config(tmp_path / name, shared_tree)
    assert cli("train", runs["straight"], *steps).code == 0
    log = tmp_path / "stopped" / "run" / "log.jsonl"
    begun = lambda: log.is_file() and '"step": 10' in log.read_text()  # noqa: E731
    answer = cli.stop_when(begun, "train", runs["stopped"], *steps, by=signal.SIGTERM)
    assert (answer.code, answer.complaint) == (130, STOPPED)
    (saved,) = (tmp_path / "stopped" / "run" / "checkpoints").iterdir()
    assert 10 <= int(saved.name.removeprefix("checkpoint-")) < 60
    assert cli("train", runs["stopped"], *steps).code == 0
    weights = [tmp_path / name / "run/model/unet/diffusion_pytorch_model.safetensors" for name in runs]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_sigterm_saves_a_segmenter_where_it_is(cli, write_config, shared_tree, tmp_path):
    steps = with_settings("segment.iterations=30", "segment.validate_every=30")
    results = []
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, shared_tree)
        folder = tmp_path / name / "run" / "segment" / "real" / "seed-0"
        if name == "stopped":
            begun = lambda folder=folder: (folder / "run.json").is_file()  # noqa: E731
            answer = cli.stop_when(begun, "segment", "train", config, *steps, by=signal.SIGTERM)
            assert (answer.code, answer.complaint) == (130, STOPPED)
            assert len(list((folder / "checkpoints").iterdir())) == 1
        assert cli("segment", "train", config, *steps).code == 0
        results.append(json.loads((folder / "result.json").read_text()))
    assert results[0]["history"] == results[1]["history"]


@pytest.mark.parametrize("verb", ["train", "generate", "compare"])
def test_a_run_folder_in_use_is_one_clear_line(verb, copied_run, cli):
    shutil.rmtree(copied_run.folder / "model")
    with Lock(copied_run.folder):
        settings = () if verb == "train" else with_settings("renderer={kind: copy_paste}")
        answer = cli(verb, copied_run.config, *settings)
    assert answer.code == 2
    assert answer.complaint == (
        f"fastsynth: {copied_run.folder} is being written by another process (process {os.getpid()} on "
        f"{os.uname().nodename}); wait for it or stop it, then run the same command again"
    )


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(whole_run, copied_run, cli, write_config):
    for folder in ("model", "checkpoints"):
        shutil.rmtree(copied_run.folder / folder)
    steps = with_settings("renderer.training.max_train_steps=6", "renderer.training.save_every=2")
    assert cli("train", copied_run.config, *steps).code == 0
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    wanted = (copied_run.folder / weights).read_bytes()
    shutil.rmtree(copied_run.folder / "model")
    newest = copied_run.folder / "checkpoints" / "checkpoint-6" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    answer = cli("train", copied_run.config, *steps)
    assert answer.code == 0
    assert answer.complaint == f"fastsynth: {newest} is damaged; going on from the checkpoint before"
    assert (copied_run.folder / weights).read_bytes() == wanted


def jump(paths: Iterable[Path]) -> None:
    """Date the files as if the clock had jumped ahead while the first were written, and back again later."""
    ordered = sorted(path for path in paths if path.is_file())
    for number, path in enumerate(ordered):
        date = FAR_AHEAD if number < len(ordered) / 2 else LONG_AGO
        os.utime(path, (date, date))


def test_dates_of_a_clock_that_jumped_leave_the_store_as_it_is(whole_run, copied_run, cli, contents):
    """A part of it is there; the lines and files made first are the youngest ones."""
    manifest = copied_run.store / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:6]))
    jump(copied_run.folder.rglob("*"))
    answer = cli("generate", copied_run.config)
    assert answer.code == 0, answer.err
    assert contents(copied_run.store) == contents(whole_run.store)


def test_dates_of_a_clock_that_jumped_do_not_choose_the_checkpoint(cli, write_config, shared_tree, tmp_path):
    """Of a stopped training the older checkpoint is dated later: the one of more steps is gone on from, and alone."""
    steps = with_settings("renderer.training.max_train_steps=6", "renderer.training.save_every=2")
    config = write_config(tmp_path, shared_tree)
    assert cli("train", config, *steps).code == 0
    run = tmp_path / "run"
    weights = run / "model/unet/diffusion_pytorch_model.safetensors"
    wanted = weights.read_bytes()
    shutil.rmtree(run / "model")
    older, newer = sorted((run / "checkpoints").iterdir())
    for path, date in ((older, FAR_AHEAD), (newer, LONG_AGO)):
        for each in (*path.iterdir(), path):
            os.utime(each, (date, date))
    before = len((run / "log.jsonl").read_text().splitlines())
    answer = cli("train", config, *steps)
    assert (answer.code, answer.err.count("damaged")) == (0, 0), answer.err
    assert weights.read_bytes() == wanted
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()[before:]]
    assert [line["step"] for line in logged if "step" in line] == []  # all six were done: nothing is trained twice


def fill_up(store: Path, count: int) -> None:
    """Give the store so many samples: its own again and again, under new ids."""
    lines, many = list(read_manifest(store)), []
    for number in range(count):
        line, name = lines[number % len(lines)], f"{number:06d}"
        paths = {key: line[key].replace(line["id"], name) for key in FILE_KEYS if key in line}
        for key, path in paths.items():
            if not (store / path).exists():
                (store / path).hardlink_to(store / line[key])
        many.append(dump_line(line | paths | {"id": name}))
    (store / "manifest.jsonl").write_bytes(b"".join(many))


def test_sigterm_ends_an_export_without_a_trace_and_the_same_command_makes_it(copied_run, cli, tmp_path, contents):
    fill_up(copied_run.store, 2000)
    arguments = ("data", "export", copied_run.store, "--format", "coco-polygons", "--output")
    begun = lambda: (tmp_path / ".tmp-out" / "images" / "000050.png").is_file()  # noqa: E731
    answer = cli.stop_when(begun, *arguments, tmp_path / "out", by=signal.SIGTERM)
    assert (answer.code, answer.complaint) == (130, STOPPED)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".tmp-out").exists()
    for name in ("out", "straight"):
        assert cli(*arguments, tmp_path / name).code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_worker_that_dies_is_one_clear_line_and_the_same_command_goes_on(cli, write_config, shared_tree, tmp_path):
    steps = with_settings("segment.iterations=60", "segment.validate_every=20", "segment.num_workers=1")
    found = []
    for name in ("straight", "dying"):
        (tmp_path / name).mkdir()
        command = ("segment", "train", write_config(tmp_path / name, shared_tree), *steps)
        if name == "dying":
            answer = die_at_work(cli, *command)
            assert answer.code == 1
            assert "Lower segment.num_workers if memory is short; the same command continues" in answer.complaint
        assert cli(*command).code == 0
        folder = tmp_path / name / "run" / "segment" / "real" / "seed-0"
        files = ("segmenter/model.safetensors", "scores.npz")
        found.append([(folder / file).read_bytes() for file in files])
    assert found[0] == found[1]


def die_at_work(cli, *command: object):
    """The answer of a command whose first worker is killed as soon as it is there."""
    process = cli.start(*command)
    children = Path(f"/proc/{process}/task/{process}/children")
    deadline = time.monotonic() + 50
    while not (workers := [child for child in children.read_text().split() if is_worker(child, process)]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int(workers[0]), signal.SIGKILL)
    return cli.wait()


def is_worker(child: str, parent: int) -> bool:
    """Whether the child goes on with its parent's program; git, which is asked for the commit, does not."""
    time.sleep(0.05)  # a child that becomes another program starts as its parent
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes() == Path(f"/proc/{parent}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_leaves_whole_samples_only(small_disk, cli, write_config, shared_tree, tmp_path, contents):
    settings = with_settings("renderer={kind: copy_paste}")
    config = write_config(small_disk, shared_tree)
    answer = cli("generate", config, *settings, *with_settings("generate.count=400"))
    assert answer.code == 1
    assert "No space left on device; free some space and run the same command again" in answer.complaint
    store = small_disk / "run" / "synthetic"
    assert not list(store.rglob(".tmp-*"))
    lines = (store / "manifest.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    for line in map(json.loads, lines.splitlines()):
        assert (store / line["image"]).stat().st_size > 0
    shutil.copytree(small_disk / "run", tmp_path / "run")
    done = lines.count(b"\n")
    config = write_config(tmp_path, shared_tree)
    assert cli("generate", config, *settings, *with_settings(f"generate.count={done + 8}")).code == 0
    (tmp_path / "whole").mkdir()
    config = write_config(tmp_path / "whole", shared_tree)
    assert cli("generate", config, *settings, *with_settings(f"generate.count={done + 8}")).code == 0
    assert contents(tmp_path / "run" / "synthetic") == contents(tmp_path / "whole" / "run" / "synthetic")
