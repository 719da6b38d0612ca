"""Shards: however a store was divided among processes, it ends as the one that a single process makes."""

import json

import numpy as np
import pytest
from hand_drawn import ATTEMPTS, COUNT, drawer, fill

from fastsynth.data.manifest import Shard, read_manifest, shard_files
from fastsynth.data.store import Store
from fastsynth.locks import InUseError
from fastsynth.quality.audit import audit
from fastsynth.recipes.filtering import all_drawn

HALVES = [Shard(1, 2), Shard(2, 2)]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_gated_store_made_by_shards_in_any_order_has_the_same_bytes(order, whole, tmp_path, data_root, contents):
    """Among them a duplicate of a sample that another shard makes: only the merge can refuse it."""
    folder = tmp_path / "sharded"
    for number in order:
        assert not all_drawn_in(folder)
        fill(folder, data_root, drawer(data_root), shard=HALVES[number])
    assert all_drawn_in(folder)
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def all_drawn_in(folder) -> bool:
    return bool(folder.exists() and shard_files(folder)) and all_drawn(folder, count=COUNT, attempts=ATTEMPTS)


@pytest.mark.parametrize("calls", range(1, 6))
def test_shards_and_merges_that_are_stopped_go_on(calls, whole, tmp_path, data_root, contents):
    folder = tmp_path / "sharded"
    for shard in (*HALVES, None):
        try:
            fill(folder, data_root, drawer(data_root, stop_after=calls), shard=shard)
        except KeyboardInterrupt:
            fill(folder, data_root, drawer(data_root), shard=shard)
    assert contents(folder) == whole


def test_a_part_that_was_never_made_is_made_by_the_merge(whole, tmp_path, data_root, contents):
    folder = tmp_path / "sharded"
    fill(folder, data_root, drawer(data_root), shard=HALVES[1])
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def test_readers_see_one_manifest_before_the_merge(tmp_path, data_root):
    folder = tmp_path / "sharded"
    for shard in HALVES:
        fill(folder, data_root, drawer(data_root), shard=shard, gated=False)
    assert not (folder / "manifest.jsonl").exists()
    assert {int(line["id"]) for line in read_manifest(folder)} == set(range(COUNT))
    report = audit(folder, data_root=data_root, split=None)
    assert (report.samples, report.problems) == (COUNT, [])


def test_a_merge_killed_before_it_removed_the_shards_is_finished(whole, tmp_path, data_root, contents):
    folder = tmp_path / "sharded"
    for shard in HALVES:
        fill(folder, data_root, drawer(data_root), shard=shard)
    kept = contents(folder / "shards")
    fill(folder, data_root, drawer(data_root))
    (folder / "shards").mkdir()
    for name, data in kept.items():
        (folder / "shards" / name).write_bytes(data)
    assert len(list(read_manifest(folder))) == len(whole["manifest.jsonl"].splitlines())
    fill(folder, data_root, drawer(data_root, stop_after=0))
    assert contents(folder) == whole


def test_a_cut_off_line_of_a_shard_is_made_again(whole, tmp_path, data_root, contents):
    folder = tmp_path / "sharded"
    for shard in HALVES:
        fill(folder, data_root, drawer(data_root), shard=shard)
    manifest = folder / "shards" / "1-of-2.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-7])
    fill(folder, data_root, drawer(data_root), shard=HALVES[0])
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def test_shards_do_not_block_one_another_but_the_same_shard_and_the_whole_store_do(tmp_path, data_root):
    identity = {"config_sha256": "c", "model_sha256": None, "data_sha256": "d", "run_seed": 7, "version": "0"}
    identity["defects"] = ["spot"]
    folder = tmp_path / "store"
    with Store.open(folder, identity=identity, shard=HALVES[0]):
        Store.open(folder, identity=identity, shard=HALVES[1]).close()
        with pytest.raises(InUseError, match=r"shard 1/2 of .* by another process \(process \d+ on "):
            Store.open(folder, identity=identity, shard=HALVES[0])
        with pytest.raises(InUseError, match="being written by another process"):
            Store.open(folder, identity=identity)
    Store.open(folder, identity=identity).close()


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2"])
def test_an_impossible_shard_is_named(text, call, tmp_path):
    answer = call("generate", tmp_path / "none.yaml", "--shard", text)
    assert answer.code == 2
    assert f"shard {text}" in answer.complaint.replace("'", "")


@pytest.fixture(scope="module")
def copy_paste_run(cli, write_config, shared_tree, tmp_path_factory):
    """Arguments of a gated copy-paste run in a folder, and the store that one process makes."""

    def arguments(folder):
        folder.mkdir(exist_ok=True)
        rules = [f"generate.gate.{rule}.enabled=false" for rule in ("seam", "object")]
        settings = ["renderer={kind: copy_paste}", "generate.count=30", "generate.gate.enabled=true", *rules]
        return [write_config(folder, shared_tree), *(part for value in settings for part in ("-s", value))]

    folder = tmp_path_factory.mktemp("one process")
    answer = cli("generate", *arguments(folder))
    assert answer.code == 0, answer.err
    return arguments, folder / "run" / "synthetic"


def test_four_shards_make_the_store_of_one_process(copy_paste_run, cli, tmp_path, contents):
    arguments, one = copy_paste_run
    store = tmp_path / "four" / "run" / "synthetic"
    for number in np.random.default_rng(0).permutation(4):
        assert not store.exists() or shard_files(store)
        answer = cli("generate", *arguments(tmp_path / "four"), "--shard", f"{number + 1}/4")
        assert answer.code == 0, answer.err
    assert contents(store) == contents(one)
    assert (tmp_path / "four" / "run" / "sheet.png").is_file()


def test_two_processes_at_once_make_the_store_of_one(copy_paste_run, cli, tmp_path, contents):
    arguments, one = copy_paste_run
    answer = cli("generate", *arguments(tmp_path / "two"), processes=2)
    assert answer.code == 0, answer.err
    assert contents(tmp_path / "two" / "run" / "synthetic") == contents(one)
    assert answer.out.splitlines() == [str(tmp_path / "two" / "run" / name) for name in ("synthetic", "sheet.png")]


@pytest.mark.slow  # two interpreters that load everything; without the launcher the test above does the same
def test_accelerate_launch_makes_the_store_of_one_process(copy_paste_run, launch, tmp_path, contents):
    arguments, one = copy_paste_run
    launch("generate", *arguments(tmp_path / "launched"))
    assert contents(tmp_path / "launched" / "run" / "synthetic") == contents(one)


@pytest.mark.parametrize("ways", ["shards", "processes"])
def test_fast_makes_the_same_bytes_in_any_division(ways, whole_run, copied_run, cli, contents):
    for path in sorted(copied_run.store.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    copied_run.store.rmdir()
    if ways == "processes":
        assert cli("generate", copied_run.config, processes=2).code == 0
    else:
        for number in (3, 1, 4, 2):
            assert cli("generate", copied_run.config, "--shard", f"{number}/4").code == 0
    assert contents(copied_run.store) == contents(whole_run.store)
    lines = (copied_run.store / "manifest.jsonl").read_text().splitlines()
    assert [int(json.loads(line)["id"]) for line in lines] == list(range(10))
