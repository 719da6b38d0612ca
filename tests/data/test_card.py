"""The data-set card: its header is the hub's, its numbers are those of the files, and it tells no clock and no path."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard

from fastsynth.data.export.formats import export_store
from fastsynth.data.medical.sidecar import NOTICE
from fastsynth.data.store import Store
from fastsynth.files import atomic_write, read_json, sha256_file, write_json
from fastsynth.images import encode_png
from fastsynth.quality.audit import audit
from fastsynth.types import Instance, Layout, Sample

SIZES = ((40, 56, 1), (40, 56, 3), (48, 64, 1))
DEPTHS = (np.uint8, np.uint8, np.uint16)
REASONS = ["seam"] * 3 + ["no visible defect"] * 4 + ["off the object"]


def sample(number: int, data: Path) -> Sample:
    """A crack or a blob, every third sample holds both; backgrounds of three sizes and depths in turn."""
    rng, kind = np.random.default_rng(number), number % 3
    background = rng.integers(0, 200, SIZES[kind]).astype(DEPTHS[kind])
    source = f"plate/train/good/{number}.png"
    atomic_write(data / source, encode_png(background))
    shapes = (f"plate/ground_truth/crack/{number % 4}_mask.png", "procedural:line")
    mask = np.ones((6, 8), bool)
    defects = ("blob", "crack") if kind == 0 else ("crack",) if number % 2 else ("blob",)
    instances = tuple(
        Instance(place + 1, defect, mask, 4 + 20 * place, 5, shape_source=shapes[place % 2])
        for place, defect in enumerate(defects)
    )
    layout = Layout(background, source, "plate" if number % 5 else "disc", instances)
    image = np.where(layout.foreground[..., None], background + 9, background).astype(background.dtype)
    return Sample(image, layout.foreground.astype(np.uint8) * 255, layout, number, "copy_paste")


@pytest.fixture
def run(request, tmp_path) -> Path:
    """The folder of a run with 11 samples, 8 refused drawings, an environment and measured copies."""
    folder, data = tmp_path / "run", tmp_path / "data"
    values = {"config_sha256": "c0ffee", "model_sha256": "beef", "data_sha256": "dada", "version": "0.1.0"}
    identity = {**values, "run_seed": 17, "defects": ["blob", "crack"], "gate": {"generate.gate.attempts": 8}}
    if getattr(request, "param", "") == "medical":
        identity["notice"] = NOTICE
    with Store.open(folder / "synthetic", identity=identity) as store:
        for number in range(11):
            made = sample(number, data)
            source_sha256 = sha256_file(data / made.layout.source)
            store.write(number, made, category=made.layout.category, source_sha256=source_sha256, extra={})
    lines = [
        {"id": f"{n:06d}", "attempt": 0, "reason": reason, "reasons": [reason]} for n, reason in enumerate(REASONS)
    ]
    log = "".join(json.dumps(line) + "\n" for line in lines) + '{"id": "0000'  # the last writer was killed
    atomic_write(folder / "synthetic" / "rejected" / "rejected.jsonl", log.encode())
    told = {"created": "2026-01-02T03:04:05", "commit": "abc123", "python": "3.11.9", "packages": {"torch": "2.14.1"}}
    command = "python -m fastsynth generate mine.yaml"
    write_json(folder / "environment.json", {**told, "stages": {"generate": {**told, "command": command}}})
    write_json(folder / "quality.json", {"types": {"blob": {"copies": 0.25}, "crack": {"samples": 3}}, "mean": {}})
    settings = {"output": str(folder), "data": {"root": str(data)}, "renderer": {"kind": "copy_paste"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def card(run, tmp_path, call) -> str:
    """The text that the verb wrote, from the configuration."""
    answer = call("card", tmp_path / "mine.yaml")
    assert (answer.code, answer.out.strip()) == (0, str(run / "synthetic" / "README.md")), answer.err
    return Path(answer.out.strip()).read_text()


def manifest(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "synthetic" / "manifest.jsonl").read_text().splitlines()]


def table(text: str, first: str) -> list[list[str]]:
    """The rows below the header that starts with the column `first`."""
    _, _, rest = text.partition(f"| {first} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_hub_s_library_reads_the_header(card):
    header = DatasetCard(card).data.to_dict()
    assert header == {
        "license": "unknown",
        "pretty_name": "Synthetic defects: disc, plate",
        "task_categories": ["image-segmentation"],
        "size_categories": ["n<1K"],
        "annotations_creators": ["machine-generated"],
        "tags": ["synthetic", "defect-segmentation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*/train/*/*.png"}]}],
    }


def test_the_counts_are_those_of_the_manifest(run, card):
    lines = manifest(run)
    kinds = Counter((line["category"], line["defect"]) for line in lines)
    wanted = [[category, defect, str(count)] for (category, defect), count in sorted(kinds.items())]
    assert table(card, "category") == [*wanted, ["", "**all**", "11"]]
    pictures = Counter(f"{SIZES[n % 3][1]} × {SIZES[n % 3][0]}" for n in range(11))
    sizes = table(card, "width × height")
    assert sum(int(row[2]) for row in sizes) == 11
    for size, count in pictures.items():
        assert sum(int(row[2]) for row in sizes if row[0] == size) == count
    assert {row[1] for row in sizes} == {"8 bit grey", "8 bit RGB", "16 bit grey"}
    instances = Counter(each["defect"] for line in lines for each in line["instances"])
    assert f"1 blob ({instances['blob']} instances), 2 crack ({instances['crack']} instances)." in card
    shapes = Counter(
        each["mask_source"][0] for line in lines for each in line["instances"]
    )  # "plate/…" or "procedural"
    drawn = sum(each["mask_source"] == "procedural:line" for line in lines for each in line["instances"])
    assert (
        f"shape of a real training defect {shapes['p'] - drawn}, procedural:line {drawn}; real ones come from 4" in card
    )
    assert table(card, "renderer") == [["copy_paste", "0", "11"]]
    assert "backgrounds: 11 normal pictures" in card


def test_what_was_rejected_is_what_the_gate_s_log_says(card):
    wanted = sorted(Counter(REASONS).items(), key=lambda item: -item[1])
    assert table(card, "reason (the first that applied)") == [[reason, str(count)] for reason, count in wanted]
    assert (
        "19 drawings were judged, 8 of them refused (and drawn again, as often as the gate allows), 11 kept of 500"
        in card
    )


def test_it_says_what_it_was_made_with_and_no_clock_and_no_path(card, tmp_path):
    for told in ("c0ffee", "beef", "dada", "abc123", "3.11.9", "torch 2.14.1", "seed of the run: 17"):
        assert told in card
    assert "python -m fastsynth generate mine.yaml\n" in card
    assert "blob 25%" in card
    assert "2026" not in card
    assert str(tmp_path) not in card


def test_the_same_files_give_the_same_bytes(run, card, call):
    for _ in range(2):
        assert call("card", run).code == 0  # by the folder
        assert (run / "synthetic" / "README.md").read_text() == card


def test_the_licence_comes_from_the_configuration_and_is_asked_for_without_one(run, card, call, tmp_path):
    assert "**Licence: not filled in.**" in card
    licensed = ["-s", "data.license=cc-by-4.0", "-s", "data.source_url=https://example.org/plates"]
    assert call("card", tmp_path / "mine.yaml", *licensed).code == 0
    text = (run / "synthetic" / "README.md").read_text()
    assert DatasetCard(text).data.license == "cc-by-4.0"
    assert "not filled in" not in text
    assert "https://example.org/plates" in text
    answer = call("card", tmp_path / "mine.yaml", "-s", "data.license=CC BY 4.0")
    assert (answer.code, "data.license" in answer.complaint) == (2, True)


@pytest.mark.parametrize("run", ["medical"], indirect=True)
def test_a_medical_store_shows_its_notice(run, card):
    assert f"> **{NOTICE}.**" in card
    assert "no figure here says that it helps with a clinical task" in card
    assert "medical" in DatasetCard(card).data.tags


def test_a_store_without_gate_and_measures_says_so(run, call):
    (run / "quality.json").unlink()
    (run / "environment.json").unlink()
    path = run / "synthetic" / "store.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "gate"})
    assert call("card", run.parent / "mine.yaml").code == 0
    text = (run / "synthetic" / "README.md").read_text()
    assert "the quality gate was off" in text
    assert "has not been measured (`fastsynth evaluate`)" in text


def test_a_store_with_wider_masks_says_by_how_much_and_how_to_get_narrow_ones(run, card, call):
    path = run / "synthetic" / "store.json"
    narrow, identity = card, read_json(path)
    assert ("halo" in identity) == ("wider than an annotator" in narrow)
    write_json(path, {**identity, "halo": 3})
    assert call("card", run.parent / "mine.yaml").code == 0
    assert "3 px wider than an annotator" in (run / "synthetic" / "README.md").read_text()


def test_the_store_does_not_take_its_card_for_a_stray_file(run, card, tmp_path):
    store = run / "synthetic"
    assert audit(store, data_root=tmp_path / "data", split=None).problems == []
    with Store.open(store, identity=read_json(store / "store.json")) as opened:
        assert len(opened.done()) == 11
    assert (store / "README.md").read_text() == card


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the code leaves closing to Python
def test_its_code_opens_every_sample(run, card, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    opened = []
    monkeypatch.chdir(run / "synthetic")
    exec(code + "    opened.append((line['id'], image.size, mask.size))\n", {"opened": opened})
    assert [name for name, *_ in opened] == [line["id"] for line in manifest(run)]
    assert all(image == mask for _, image, mask in opened)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the library
def test_the_image_folder_carries_a_card_and_is_loaded_by_its_word(run, call, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the library `datasets` is not installed")
    assert call("card", tmp_path / "mine.yaml", "-s", "data.license=cc0-1.0").code == 0
    export_store(run / "synthetic", tmp_path / "out", kind="imagefolder")
    exported = DatasetCard.load(tmp_path / "out" / "README.md")
    assert exported.data.license == "cc0-1.0"
    assert table(exported.content, "category") == table((run / "synthetic" / "README.md").read_text(), "category")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(rows["id"]) == [line["id"] for line in manifest(run)]
    assert {"image", "mask", "classes"} <= set(rows.column_names)
    pictures = datasets.load_dataset(str(run / "synthetic"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(pictures) == 11  # of the store the images, and no masks among them


def test_every_export_says_what_the_store_was_made_from(run, tmp_path):
    export_store(run / "synthetic", tmp_path / "out", kind="yolo")
    told = read_json(tmp_path / "out" / "provenance.json")
    assert told["store"] == read_json(run / "synthetic" / "store.json")
    assert (told["format"], told["samples"]) == ("yolo", 11)


def test_without_a_run_or_a_store_one_line_says_what_to_do(run, tmp_path, call):
    (tmp_path / "empty.yaml").write_text(yaml.safe_dump({"output": str(tmp_path / "no"), "data": {"root": "x"}}))
    for argument, why in (
        (tmp_path / "empty.yaml", "store.json: no such file; there is no store yet, generate some samples first"),
        (run / "synthetic", "config.yaml: no such file; pass a configuration or the folder of its run"),
        (tmp_path / "nowhere.yaml", "no such config file"),
    ):
        answer = call("card", argument)
        assert (answer.code, why in answer.complaint) == (2, True), answer.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("raw", [b"[]\n", b'{"id": "x", "attempt": 0, "reason": "a"}\n', b"[" * 100_000 + b"\n"])
def test_a_damaged_log_of_the_gate_is_named(run, call, raw):
    (run / "synthetic" / "rejected" / "rejected.jsonl").write_bytes(raw)
    answer = call("card", run.parent / "mine.yaml")
    assert (answer.code, "rejected.jsonl:1: not a line of the gate" in answer.complaint) == (2, True)
