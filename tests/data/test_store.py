"""Laws of the store: what is in it depends on the samples alone, and half of a sample is never visible."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastsynth.data.manifest import Shard
from fastsynth.data.store import Store, read_manifest, remove_files
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png, read_image
from fastsynth.types import Instance, Layout, Sample, sample_seed

IDENTITY = {
    "config_sha256": "c" * 64,
    "model_sha256": None,
    "data_sha256": "d" * 64,
    "run_seed": 7,
    "version": "0.1.0",
    "defects": ["pit", "scratch"],
}
REQUIRED = {
    *("id", "image", "mask", "category", "defect", "renderer", "source_image", "source_sha256", "mask_source"),
    *("image_sha256", "mask_sha256", "seed", "num_inference_steps", "model_sha256", "config_sha256"),
    *("instances", "checks", "version"),
}


def make_source(root: Path, *, channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    """A noise picture at `plate/train/good/000.png` below the root."""
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (40, 56, channels)).astype(dtype)
    atomic_write(root / "plate" / "train" / "good" / "000.png", encode_png(image))
    return image


def make_sample(background: np.ndarray, sample_id: int, *, defects: tuple[str, ...] = ("scratch",)) -> Sample:
    """Inverts the background inside one small ragged mask per defect."""
    seed = sample_seed(7, sample_id)
    rng = np.random.default_rng(seed)
    instances = []
    for number, defect in enumerate(defects, start=1):
        mask = rng.random((6, 9)) < 0.7
        mask[0, 0] = mask[-1, -1] = True
        left, top = (int(v) for v in rng.integers(0, 30, 2))
        instances.append(Instance(number, defect, mask, left, top, shape_source="procedural:test"))
    layout = Layout(background, "plate/train/good/000.png", "plate", tuple(instances))
    image = background.copy()
    image[layout.foreground] = ~image[layout.foreground]
    mask = layout.foreground.astype(np.uint8) * 255
    return Sample(image, mask, layout, seed, "invert", notes={"ragged": True})


def fill(folder: Path, ids: list[int], background: np.ndarray, *, source_sha256: str = "e" * 64) -> None:
    with Store.open(folder, identity=IDENTITY) as store:
        for sample_id in ids:
            if sample_id not in store.done():
                defects = ("scratch", "pit") if sample_id % 3 == 0 else ("scratch",)
                sample = make_sample(background, sample_id, defects=defects)
                store.write(sample_id, sample, category="plate", source_sha256=source_sha256, extra={"arm": "test"})
        store.seal()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def background(tmp_path: Path) -> np.ndarray:
    return make_source(tmp_path / "data")


def test_a_line_has_the_documented_keys_sorted_and_the_hashes_of_its_files(tmp_path, background):
    fill(tmp_path / "store", [123], background)
    (raw,) = (tmp_path / "store" / "manifest.jsonl").read_text().splitlines()
    line = json.loads(raw)
    assert list(line) == sorted(line)
    assert line.keys() >= REQUIRED
    assert line["id"] == "000123"
    assert line["image"] == "plate/train/combined/000123.png"
    assert line["mask"] == "plate/ground_truth/combined/000123_mask.png"
    assert line["mask_source"] == "procedural:test"
    assert line["checks"] == {"outside_unchanged": True, "changed_share": 1.0, "gate": None}
    assert line["instances"][0].keys() >= {"id", "defect", "bbox", "area"}
    assert line["arm"] == "test"
    for key in ("image", "mask", "classes"):
        assert line[f"{key}_sha256"] == sha256_file(tmp_path / "store" / line[key])


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)])
def test_stored_pixels_come_back_bit_for_bit(tmp_path, channels, dtype):
    background = make_source(tmp_path / "data", channels=channels, dtype=dtype)
    sample = make_sample(background, 1)
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        store.write(1, sample, category="plate", source_sha256="e", extra={})
        (line,) = store.lines()
    stored = read_image(tmp_path / "store" / line["image"])
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, sample.image)
    np.testing.assert_array_equal(read_image(tmp_path / "store" / line["mask"])[..., 0], sample.mask)


def test_class_indices_follow_the_store_wide_order_and_the_topmost_instance(tmp_path, background):
    sample = make_sample(background, 3, defects=("scratch", "pit"))
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        store.write(3, sample, category="plate", source_sha256="e", extra={})
        (line,) = store.lines()
    classes = read_image(tmp_path / "store" / line["classes"])[..., 0]
    ids = sample.layout.instance_map()
    np.testing.assert_array_equal(classes, np.select([ids == 1, ids == 2], [2, 1], 0))


def test_order_of_writing_does_not_change_the_sealed_store(tmp_path, background):
    fill(tmp_path / "a", [0, 1, 2, 3, 4], background)
    fill(tmp_path / "b", [4, 2], background)
    fill(tmp_path / "b", [3, 4, 1, 0, 2], background)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_killed_at_any_moment_and_run_again_gives_the_uninterrupted_store(tmp_path, background):
    fill(tmp_path / "whole", list(range(24)), background)
    program = (
        "import importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('store_laws', {str(Path(__file__))!r})\n"
        "laws = importlib.util.module_from_spec(spec); spec.loader.exec_module(laws)\n"
        f"laws.write_under_kills(pathlib.Path({str(tmp_path)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def write_under_kills(folder: Path) -> None:
    """Run in a process of its own, as forking one with threads is unsafe: kill the writer again and again."""
    background = read_image(folder / "data" / "plate" / "train" / "good" / "000.png")
    manifest = folder / "killed" / "manifest.jsonl"
    rng = np.random.default_rng(0)
    for _ in range(5):
        enough = count_lines(manifest) + int(rng.integers(1, 4))
        writer = fork_writer(folder / "killed", background)
        while count_lines(manifest) < enough:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.005)))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        for line in read_whole_lines(manifest):
            for key in ("image", "mask"):
                assert sha256_file(folder / "killed" / line[key]) == line[f"{key}_sha256"]
    os.waitpid(fork_writer(folder / "killed", background), 0)


def fork_writer(folder: Path, background: np.ndarray) -> int:
    writer = os.fork()
    if writer == 0:
        fill(folder, list(range(24)), background)
        os._exit(0)
    return writer


def count_lines(manifest: Path) -> int:
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def read_whole_lines(manifest: Path) -> list[dict]:
    return [json.loads(raw) for raw in manifest.read_bytes().splitlines(keepends=True) if raw.endswith(b"\n")]


def test_a_cut_off_last_line_temporary_files_and_unnamed_files_are_repaired(tmp_path, background):
    fill(tmp_path / "store", [0, 1, 2, 3], background)
    whole = tree(tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    (tmp_path / "store" / "plate" / "train" / "scratch" / ".tmp-abc").write_bytes(b"half")
    (tmp_path / "store" / "plate" / "train" / "scratch" / "000009.png").write_bytes(b"orphan")
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        assert store.done() == {0, 1, 2}
        assert [line["id"] for line in store.lines()] == ["000000", "000001", "000002"]
    fill(tmp_path / "store", [0, 1, 2, 3], background)
    assert tree(tmp_path / "store") == whole


def test_a_line_whose_image_is_gone_becomes_a_gap(tmp_path, background):
    fill(tmp_path / "store", [0, 1, 2], background)
    whole = tree(tmp_path / "store")
    (tmp_path / "store" / "plate" / "train" / "scratch" / "000001.png").unlink()
    fill(tmp_path / "store", [0, 1, 2], background)
    assert tree(tmp_path / "store") == whole


def test_damage_in_the_middle_of_the_manifest_is_reported_not_repaired(tmp_path, background):
    fill(tmp_path / "store", [0, 1, 2], background)
    manifest = tmp_path / "store" / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + b"garbage\n" + lines[2])
    with pytest.raises(ValueError, match=r"manifest\.jsonl:2: not a manifest line"):
        Store.open(tmp_path / "store", identity=IDENTITY)
    with pytest.raises(ValueError, match=r"manifest\.jsonl:2"):
        list(read_manifest(tmp_path / "store"))


def test_another_identity_is_refused_and_the_key_is_named(tmp_path, background):
    fill(tmp_path / "store", [0], background)
    with pytest.raises(ValueError, match=r"run_seed 7, this run has 8; write to another folder"):
        Store.open(tmp_path / "store", identity={**IDENTITY, "run_seed": 8})


@pytest.mark.parametrize(
    ("made", "now", "said"),
    [
        (
            {"gate": {"generate.gate.attempts": 8, "generate.gate.seam.max_ratio": 1.6, "same": 1}},
            {"gate": {"generate.gate.attempts": 2, "generate.gate.seam.max_ratio": 1.5, "same": 1}},
            "generate.gate.attempts 8 (this run has 2), generate.gate.seam.max_ratio 1.6 (this run has 1.5); ",
        ),
        ({}, {"gate": {"k": 1}}, "generate.gate.enabled False, this run has True; "),
        ({"gate": {"k": 1}}, {}, "generate.gate.enabled True, this run has False; "),
    ],
)
def test_of_another_gate_the_settings_that_differ_are_named_in_one_line(tmp_path, made, now, said):
    Store.open(tmp_path / "store", identity={**IDENTITY, **made}).close()
    with pytest.raises(ValueError, match="was made with") as caught:
        Store.open(tmp_path / "store", identity={**IDENTITY, **now})
    assert f"{tmp_path / 'store'} was made with {said}" in str(caught.value)
    assert "same" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_other_files_never_becomes_a_store(tmp_path, background):
    with pytest.raises(ValueError, match="is not a store"):
        Store.open(tmp_path / "data", identity=IDENTITY)
    assert list(tree(tmp_path / "data")) == ["plate/train/good/000.png"]


def test_what_a_start_that_was_killed_left_is_no_foreign_file(tmp_path, background):
    folder = tmp_path / "store"
    (folder / "shards").mkdir(parents=True)
    for name in (".lock", ".tmp-store.json"):
        (folder / name).touch()
    fill(folder, [0], background)
    assert [line["id"] for line in read_manifest(folder)] == ["000000"]


def test_two_writers_cannot_share_a_store(tmp_path):
    with (
        Store.open(tmp_path / "store", identity=IDENTITY),
        pytest.raises(ValueError, match="being written by another process"),
    ):
        Store.open(tmp_path / "store", identity=IDENTITY)
    Store.open(tmp_path / "store", identity=IDENTITY).close()


def test_a_sample_that_breaks_the_contract_leaves_no_trace(tmp_path, background):
    good = make_sample(background, 0)
    changed = good.image.copy()
    outside = np.argwhere(good.mask == 0)[0]
    changed[tuple(outside)] ^= 1
    shifted = np.roll(good.mask, 1, axis=0)
    soft = np.where(good.mask > 0, 128, 0).astype(np.uint8)
    stained = good.mask.copy()
    stained[tuple(outside)] = 1
    bad = {
        "1 pixels changed outside the mask": Sample(changed, good.mask, good.layout, 1, "invert"),
        "mask differs from the layout": Sample(good.image, shifted, good.layout, 1, "invert"),
        "values other than 0 and 255": Sample(good.image, soft, good.layout, 1, "invert"),
        "mask is empty or holds values": Sample(good.image, stained, good.layout, 1, "invert"),
        r"invert on plate/train/good/000\.png: mask is empty": Sample(
            good.image, np.zeros_like(soft), good.layout, 1, "invert"
        ),
        r"defects \['dent'\] are not among the store's \['pit', 'scratch'\]": make_sample(
            background, 0, defects=("pit", "dent")
        ),
        "render at native size": Sample(good.image.astype(np.uint16), good.mask, good.layout, 1, "invert"),
    }
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        for message, sample in bad.items():
            with pytest.raises(ValueError, match=message):
                store.write(0, sample, category="plate", source_sha256="e", extra={})
        for name in ("", ".", "..", "../plate", "a/b", "a\\b", "C:", "a\0", "shards", "rejected", "x" * 256):
            with pytest.raises(ValueError, match="category is "):
                store.write(0, good, category=name, source_sha256="e", extra={})
        for name in ("", "..", "a/b"):
            sample = make_sample(background, 0, defects=(name,))
            with pytest.raises(ValueError, match="defect is "):
                store.write(0, sample, category="plate", source_sha256="e", extra={})
        with pytest.raises(ValueError, match="belong to the manifest"):
            store.write(0, good, category="plate", source_sha256="e", extra={"seed": 1})
        assert store.done() == set()
    assert set(tree(tmp_path / "store")) == {"store.json", ".lock"}


def test_an_id_is_written_once(tmp_path, background):
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        store.write(0, make_sample(background, 0), category="plate", source_sha256="e", extra={})
        with pytest.raises(ValueError, match="already stored"):
            store.write(0, make_sample(background, 0), category="plate", source_sha256="e", extra={})


@pytest.mark.parametrize("limit", [300, 2500])
def test_no_room_on_disk_leaves_complete_samples_only(tmp_path, background, limit):
    """A file size limit stands for the full disk: it stops the images (300 bytes) or the manifest (2500)."""
    samples = [make_sample(background, sample_id) for sample_id in range(8)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = Store.open(tmp_path / "store", identity=IDENTITY)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(OSError, match=r"File too large|disk full"):
            write_all(store, samples)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store.close()
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    stored = tree(tmp_path / "store").get("manifest.jsonl", b"")
    assert stored == b"" or stored.endswith(b"\n")
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        assert len(store.done()) == stored.count(b"\n") < 8
        write_all(store, [s for i, s in enumerate(samples) if i not in store.done()], first=len(store.done()))
        store.seal()
    with Store.open(tmp_path / "whole", identity=IDENTITY) as store:
        write_all(store, samples)
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def write_all(store: Store, samples: list[Sample], *, first: int = 0) -> None:
    for sample_id, sample in enumerate(samples, start=first):
        store.write(sample_id, sample, category="plate", source_sha256="e", extra={})


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        Store.open(tmp_path / "file" / "store", identity=IDENTITY)


@pytest.mark.data
def test_the_independent_checker_finds_nothing(checker, tmp_path, background):
    source = tmp_path / "data" / "plate" / "train" / "good" / "000.png"
    fill(tmp_path / "store", list(range(7)), background, source_sha256=sha256_file(source))
    command = [sys.executable, checker, tmp_path / "store", tmp_path / "data", "--expect", "7"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


HALVES = [Shard(1, 2), Shard(2, 2)]


def write_shard(folder: Path, shard: Shard, ids: list[int], background: np.ndarray) -> None:
    with Store.open(folder, identity=IDENTITY, shard=shard) as store:
        for sample_id in ids:
            sample = make_sample(background, sample_id)
            store.write(sample_id, sample, category="plate", source_sha256="e" * 64, extra={"arm": "test"})


def test_a_shard_writes_its_own_manifest_and_sees_the_samples_of_all(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1], background)
    with Store.open(folder, identity=IDENTITY, shard=HALVES[1]) as store:
        assert (store.done(), store.pending) == ({0, 1}, {})
        assert [line["id"] for line in store.lines()] == ["000000", "000001"]
        store.write(2, make_sample(background, 2), category="plate", source_sha256="e", extra={})
        assert store.done() == {0, 1, 2}
        assert sorted(line["id"] for line in store.lines()) == ["000000", "000001", "000002"]
    assert [path.name for path in sorted((folder / "shards").glob("*.jsonl"))] == ["1-of-2.jsonl", "2-of-2.jsonl"]
    assert not (folder / "manifest.jsonl").exists()


def test_the_store_adopts_or_disowns_what_shards_made_and_forgets_them(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1], background)
    write_shard(folder, HALVES[1], [2], background)
    with Store.open(folder, identity=IDENTITY) as store:
        assert (store.done(), sorted(store.pending)) == (set(), [0, 1, 2])
        assert list(store.lines()) == []
        with pytest.raises(AssertionError):
            store.drop_shards()
        store.adopt({0: store.pending[0], 2: store.pending[2]})
        assert (store.done(), sorted(store.pending)) == ({0, 2}, [1])
        store.disown(1)
        assert not list(folder.rglob("000001*"))
        store.drop_shards()
        assert not (folder / "shards").exists()
        assert [line["id"] for line in store.lines()] == ["000000", "000002"]
    fill(tmp_path / "whole", [], background)
    write_shard(tmp_path / "again", HALVES[0], [0, 2], background)
    with Store.open(tmp_path / "again", identity=IDENTITY) as store:
        store.adopt(dict(store.pending))
        store.drop_shards()
    assert tree(folder) == tree(tmp_path / "again")


def test_of_pending_samples_only_those_with_files_and_whole_lines_count(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1, 2], background)
    shard = folder / "shards" / "1-of-2.jsonl"
    shard.write_bytes(shard.read_bytes()[:-9])
    (folder / "plate" / "train" / "scratch" / "000001.png").unlink()
    with Store.open(folder, identity=IDENTITY) as store:
        assert sorted(store.pending) == [0]
    assert not list(folder.rglob("000001*"))
    assert not list(folder.rglob("000002*"))


def test_pending_samples_keep_all_their_files_and_one_that_is_written_again_is_pending_no_more(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1, 2], background)
    write_shard(folder, HALVES[1], [3], background)
    files = tree(folder / "plate")
    with Store.open(folder, identity=IDENTITY) as store:
        assert tree(folder / "plate") == files
        store.write(1, make_sample(background, 1), category="plate", source_sha256="e" * 64, extra={})
        assert (store.done(), sorted(store.pending)) == ({1}, [0, 2, 3])
        assert [line["id"] for line in store.lines()] == ["000001"]


def test_an_unsound_line_of_a_shard_is_named(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1], background)
    shard = folder / "shards" / "1-of-2.jsonl"
    shard.write_bytes(shard.read_bytes() + b'{"id": "abc"}\n')
    for opened in (None, HALVES[0]):
        with pytest.raises(ValueError, match=r"1-of-2\.jsonl:3: .*keys missing"):
            Store.open(folder, identity=IDENTITY, shard=opened)


def test_a_shard_does_not_count_what_another_has_lost(tmp_path, background):
    folder = tmp_path / "store"
    write_shard(folder, HALVES[0], [0, 1], background)
    next((folder / "plate").rglob("000001.png")).unlink()
    with Store.open(folder, identity=IDENTITY, shard=HALVES[1]) as store:
        assert store.done() == {0}


def test_what_is_gone_already_is_no_error_when_it_is_removed(tmp_path, background):
    folder = tmp_path / "store"
    fill(folder, [0], background)
    (line,) = read_manifest(folder)
    (folder / line["mask"]).unlink()
    remove_files(folder, line)
    assert not list(folder.rglob("000000*"))
    with Store.open(folder, identity=IDENTITY) as store:
        store.drop_shards()  # that never were


@pytest.mark.parametrize(
    "place", ["plate", "plate/train", "plate/train/scratch", "shards/1-of-2.jsonl", "manifest.jsonl"]
)
def test_a_link_in_the_place_of_a_part_of_the_store_is_refused(place, tmp_path, background):
    folder = tmp_path / "store"
    fill(folder, [1], background)
    write_shard(folder, HALVES[0], [2], background)
    away = tmp_path / "away"
    (folder / place).rename(away)
    (folder / place).symlink_to(away)
    before = tree(away) if away.is_dir() else away.read_bytes()
    with pytest.raises(ValueError, match=rf"{place} is a symbolic link"):
        Store.open(folder, identity=IDENTITY)
    assert (tree(away) if away.is_dir() else away.read_bytes()) == before


def test_the_lines_keep_notes_severity_sources_gate_and_notice(tmp_path, background):
    sample = make_sample(background, 0, defects=("scratch", "pit"))
    notice = IDENTITY | {"notice": "synthetic", "gate": {"k": 1}}
    measures = {"area": 3.0, "fingerprint": "0f"}
    with Store.open(tmp_path / "deep" / "er" / "store", identity=notice) as store:
        given = {"category": "plate", "source_sha256": "e", "extra": {}, "gate": measures}
        line = store.write(0, sample, **given)
        single = store.write(1, make_sample(background, 1), **given)
        assert list(store.lines()) == [line, single]
    assert line["notes"] == {"ragged": True}
    assert line["notice"] == single["notice"] == "synthetic"
    assert line["checks"]["gate"] == measures
    for item, instance in zip(line["instances"], sample.layout.instances, strict=True):
        assert item == {
            "id": instance.id,
            "defect": instance.defect,
            "bbox": list(instance.bbox),
            "area": int(instance.mask.sum()),
            "mask_source": "procedural:test",
            "severity": 1.0,
        }
    assert {"classes", "instance_map"} <= line.keys()
    assert not {"classes", "instance_map"} & single.keys()
    assert not list((tmp_path / "deep").rglob("*/classes/scratch/*"))


def test_an_id_that_comes_twice_is_refused_and_a_last_line_that_is_unsound_is_not_dropped(tmp_path, background):
    fill(tmp_path / "store", [0, 1], background)
    manifest = tmp_path / "store" / "manifest.jsonl"
    whole = manifest.read_bytes()
    for more, said in (
        (whole.splitlines(keepends=True)[0], "000000 comes twice"),
        (b'{"id": "abc"}\n', "keys missing"),
    ):
        manifest.write_bytes(whole + more)
        with pytest.raises(ValueError, match=rf"manifest\.jsonl:3: .*{said}"):
            Store.open(tmp_path / "store", identity=IDENTITY)
        assert manifest.read_bytes() == whole + more
