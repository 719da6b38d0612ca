"""Whatever a manifest line or store.json holds: one clear line, no traceback, and no file outside is touched."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastsynth.config import dump_config, parse_config
from fastsynth.data.identity import read_identity
from fastsynth.data.manifest import LINE_KEYS, LONGEST_LINE, dump_line, entries, parse_line, raw_lines, read_manifest
from fastsynth.data.store import Store
from fastsynth.files import sha256_file
from fastsynth.images import read_image
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.types import Instance, Layout, Sample

GOOD: dict[str, Any] = {
    "id": "000001",
    "category": "tile",
    "defect": "crack",
    "image": "tile/train/crack/000001.png",
    "mask": "tile/ground_truth/crack/000001_mask.png",
    "classes": "tile/classes/crack/000001.png",
    "instance_map": "tile/instances/crack/000001.png",
    **{f"{key}_sha256": "e" for key in ("source", "image", "mask", "config", "model", "classes", "instance_map")},
    "source_image": "train/good/000.png",
    "mask_source": "procedural:crack",
    "renderer": "fast",
    "seed": 2**63 - 1,
    "num_inference_steps": 10,
    "attempt": 2,
    "notice": "synthetic",
    "instances": [{"id": 1, "defect": "crack", "bbox": [0, 1, 4, 6], "area": 20, "mask_source": "m", "severity": 1}],
    "checks": {"outside_unchanged": True, "changed_share": 0.5, "gate": {"area": 20.0, "fingerprint": "0f"}},
    "truth": {"alignment": 1.0, "leak": 0.0, "visible": {"1": 1.0}, "invisible": 0},
    "version": "0.1.0",
}
EVIL = [
    *(None, True, -1, 3, 10**30, 0.5, -1e300, "", "abc", "a" * 5000, "../../vic.png", "/etc/passwd", "C:/x", "..\\x"),
    *("a\0b", "\ud800", "000001\n", "١٢٣٤٥٦", [], [[]], {}, {"a": 1}, ["a"], [None], [1, 2], {"id": 1}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(EVIL),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
QUICK = settings(max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every key and position inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in [(*path, key), *places(item, (*path, key))]]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    value = copy.deepcopy(value)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return value


def judged(raw: bytes) -> dict[str, Any] | None:
    """The line; a complaint must be one short line."""
    try:
        return parse_line(raw)
    except ValueError as error:
        said = str(error)
    assert len(said) < 600
    assert len(said.splitlines()) == 1
    return None


def test_a_sound_line_passes_and_misses_no_key():
    assert parse_line(dump_line(GOOD)) == GOOD
    for key in LINE_KEYS | {"classes_sha256", "instance_map_sha256"}:
        with pytest.raises(ValueError, match=f"keys missing: {key}$"):
            parse_line(dump_line({name: value for name, value in GOOD.items() if name != key}))


@QUICK
@given(place=st.sampled_from(places(GOOD)), value=JSON)
def test_any_value_at_any_place_is_accepted_as_it_is_or_refused_in_one_line(place, value):
    line = judged(json.dumps(replaced(GOOD, place, value)).encode() + b"\n")
    if line is not None:
        assert line["image"] == f"{line['category']}/train/{line['defect']}/{line['id']}.png"
        assert not {"", ".", ".."} & set(line["source_image"].split("/"))
        assert judged(dump_line(line)) == line


@pytest.mark.parametrize("key", sorted({*LINE_KEYS, "classes", "instance_map", "attempt", "notice"} - {"model_sha256"}))
def test_a_value_of_another_kind_is_refused_and_the_key_is_named(key):
    for value in ([], {}, None, True, 10**30, -1, "\0", 0.5):
        if type(value) is type(GOOD[key]) and key not in ("id", "category", "defect", "seed", "attempt"):
            continue
        with pytest.raises(ValueError, match=key):
            parse_line(json.dumps(GOOD | {key: value}).encode() + b"\n")


@QUICK
@given(st.binary(max_size=300))
@example(b"[" * 200_000 + b"\n")
@example(b'{"id":' * 100_000 + b"\n")
@example(b'{"id": ' + b"9" * 6000 + b"}\n")
@example(b"\xff\xfe{\x00}\x00\n")
def test_random_bytes_are_no_line(raw):
    assert judged(raw) is None


@QUICK
@given(cut=st.integers(0, len(dump_line(GOOD)) - 1), noise=st.binary(min_size=1, max_size=9))
def test_a_line_with_noise_in_it_is_sound_or_refused(cut, noise):
    raw = dump_line(GOOD)
    assert judged(raw[:cut]) is None
    judged(raw[:cut] + noise + raw[cut:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": 1e999}', "not finite"),
        ('{"x": NaN}', "not finite"),
        (f'{{"x": {"9" * 5000}}}', "thousands of digits"),
        ('{"x": "\\ud800"}', "half a character"),
        (f'{{"x": {"[" * 150}{"]" * 150}}}', "brackets"),
        (f'{{"x": {"[" * 100_000}', "brackets"),
    ],
)
def test_what_could_not_be_written_again_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_line(text.encode() + b"\n")
    assert parse_line(dump_line(GOOD | {"many": [[k] for k in range(500)], "emoji": "\U0001f600"})) is not None


def test_a_line_that_is_too_long_is_skipped_and_the_next_one_keeps_its_number(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b"x" * (LONGEST_LINE + 5) + b"\n" + dump_line(GOOD))
    assert [len(raw) for raw in raw_lines(path)] == [1001, len(dump_line(GOOD))]
    first, second = entries([path])
    assert (first.line, second.where, second.line) == (None, "manifest.jsonl:2", GOOD)


def test_a_line_costs_a_few_decodings(tmp_path):
    raw = dump_line(GOOD)

    def seconds(work: Callable[[bytes], object]) -> float:
        times = []
        for _ in range(20):
            started = time.process_time()
            for _ in range(100):
                work(raw)
            times.append(time.process_time() - started)
        return min(times)

    assert seconds(parse_line) < 5 * seconds(json.loads)


IDENTITY = {
    "config_sha256": "c",
    "model_sha256": None,
    "data_sha256": "d",
    "run_seed": 7,
    "version": "0",
    "defects": ["blob", "crack"],
    "gate": {"generate.gate.attempts": 8, "generate.gate.copies.exempt": ["copy_paste"]},
    "notice": "synthetic",
}


@QUICK
@example(place=("gate",), value={"\x1e": {}})
@given(place=st.sampled_from(places(IDENTITY)), value=JSON)
def test_any_value_in_an_identity_is_kept_or_refused_in_one_line(place, value, tmp_path):
    (tmp_path / "store.json").write_text(json.dumps(replaced(IDENTITY, place, value)))
    said = "sound"
    try:
        assert all(isinstance(name, str) for name in read_identity(tmp_path)["defects"])
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) == 1


@pytest.fixture
def filled(tiny_tree, tmp_path) -> Run:
    """A gateless copy-paste run with four samples, and two pictures outside that look like one of them."""
    values = {
        "output": tmp_path / "run",
        "data": {"root": tiny_tree},
        "renderer": {"kind": "copy_paste"},
        "generate": {"count": 4, "gate": {"enabled": False, "mask": {"min_area": 400}}},
    }
    run = Run(parse_config(RunConfig, values, source="test"))
    (tmp_path / "c.yaml").write_text(dump_config(run.config))
    from fastsynth.recipes.rendering import generate

    generate(run)
    lines = list(read_manifest(run.store_folder))
    for key in ("image", "mask"):
        (tmp_path / f"victim_{key}.png").write_bytes((run.store_folder / lines[1][key]).read_bytes())
    return run


VERBS = {
    "filter": ("filter", "c.yaml"),
    "generate": ("generate", "c.yaml", "-s", "generate.count=6"),
    "augment": ("augment", "c.yaml"),
    "evaluate": ("evaluate", "c.yaml"),
    "replay": ("replay", "c.yaml", "--id", "3"),
    "export": ("data", "export", "run/synthetic", "--format", "coco", "--output", "out"),
    "export mvtec": ("data", "export", "run/synthetic", "--format", "mvtec", "--output", "out", "--data", "tile"),
}
OUTSIDE = {"image": "../../victim_image.png", "mask": "../../victim_mask.png"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", ["manifest", "shard"])
def test_no_verb_touches_what_a_line_names_outside(verb, where, filled, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = list(read_manifest(filled.store_folder))
    lines[1] |= OUTSIDE
    raws = [json.dumps(line).encode() + b"\n" for line in lines]
    manifest = filled.store_folder / "manifest.jsonl"
    if where == "shard":
        (filled.store_folder / "shards").mkdir()
        (filled.store_folder / "shards" / "1-of-1.jsonl").write_bytes(b"".join(raws[1:]))
        raws = raws[:1]
    manifest.write_bytes(b"".join(raws))
    before = {path: sha256_file(path) for path in tmp_path.rglob("*.png")}
    answer = call(*VERBS[verb])
    assert answer.code == 2
    if not (verb == "filter" and where == "shard"):  # which asks for the shards to be merged first
        name = "manifest.jsonl:2" if where == "manifest" else "1-of-1.jsonl:1"
        assert f"{name}: image is '../../victim_image.png'; wanted tile/train/" in answer.complaint
    assert {path: sha256_file(path) for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize("verb", ["filter", "generate", "augment", "export"])
@pytest.mark.parametrize("level", ["tile", "tile/train", "file"])
def test_no_verb_follows_a_link_out_of_the_store(verb, level, filled, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = list(read_manifest(filled.store_folder))[1]
    inner = filled.store_folder / (line["image"] if level == "file" else level)
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "elsewhere")
    before = {path: sha256_file(path) for path in (tmp_path / "elsewhere").rglob("*.png")}
    answer = call(*VERBS[verb])
    assert "Traceback" not in answer.err
    if (verb, level) != ("generate", "file"):
        assert answer.code == 2
        assert "symbolic link" in answer.complaint
    assert {path: sha256_file(path) for path in (tmp_path / "elsewhere").rglob("*.png")} == before


SMALL = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", ["manifest.jsonl", "store.json", "split.json"])
def test_the_command_line_answers_any_damage_in_one_line(name, filled, call, tmp_path, monkeypatch):
    """Random values in the place of any key, through the verbs that read the file; the store may be repaired."""
    monkeypatch.chdir(tmp_path)
    path = filled.folder / name if name == "split.json" else filled.store_folder / name
    whole = path.read_text()
    first, rest = whole.split("\n", 1) if name == "manifest.jsonl" else (whole, "")
    value = json.loads(first)
    count = 0

    @SMALL
    @given(place=st.sampled_from(places(value)), new=JSON)
    def check(place, new):
        nonlocal count
        count += 1
        path.write_text(json.dumps(replaced(value, place, new)) + "\n" + rest)
        audit = ("audit", "run/synthetic", "--data", "tile", "--split", "run/split.json")
        export = ("data", "export", "run/synthetic", "--format", "coco", "--output", f"out{count}")
        for command in (audit, export, (*VERBS["filter"], "--dry-run"), VERBS["replay"]):
            answer = call(*command)
            assert answer.code in (0, 2, 3), (command, answer)
            assert "Traceback" not in answer.err
            if answer.code == 2:
                assert answer.complaint

    check()


def make_store(folder: Path, background: np.ndarray) -> Path:
    with Store.open(folder, identity=IDENTITY | {"defects": ["crack"]}) as store:
        layout = Layout(background, "a.png", "tile", (Instance(1, "crack", np.ones((4, 5), bool), 2, 3),))
        image = np.where(layout.foreground[..., None], ~background, background)
        sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, 1, "invert")
        store.write(0, sample, category="tile", source_sha256="e", extra={})
    return folder


@pytest.mark.parametrize("kind", ["coco", "mvtec", "webdataset", "cvat"])
def test_exports_name_what_they_cannot_write(kind, call, tmp_path, monkeypatch, shared_tree):
    monkeypatch.chdir(tmp_path)
    background = read_image(next((shared_tree / "train" / "good").iterdir()))
    store = make_store(tmp_path / "store", background)
    export = ("data", "export", "store", "--format", kind, "--data", str(shared_tree), "--output")
    assert "lies in the store" in call(*export, "store/out").complaint
    (store / "store.json").write_text(json.dumps(IDENTITY | {"defects": ["blob"]}))
    assert "sample 000000 has the defect 'crack', store.json knows ['blob']" in call(*export, "out").complaint
    (store / "store.json").write_text(json.dumps(IDENTITY))
    (store / "manifest.jsonl").write_bytes(b"")
    assert "the manifest lists no samples" in call(*export, "out").complaint
    assert not (tmp_path / "out").exists()
