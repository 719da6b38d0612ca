"""A hybrid in a run: samples as its parts make them alone, whatever the division of the work; gate rules per part."""

import json
import shutil
import signal

import numpy as np
import pytest
import yaml

from fastsynth.config import load_config
from fastsynth.data.store import read_manifest
from fastsynth.images import read_image
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.types import sample_seed
from generators.hybrid import HybridRenderer

PARTS = "{pasted: {weight: 2, renderer: {kind: copy_paste}}, elsewhere: {renderer: {kind: cutpaste}}}"
REFERENCES = f"renderer={{kind: hybrid, parts: {PARTS}}}"
KINDS = {"pasted": "copy_paste", "elsewhere": "cutpaste"}
GATE = (
    "generate.gate.enabled=true",
    "generate.gate.seam.enabled=false",
    "generate.gate.object.enabled=false",
    "generate.gate.alignment.max_offset=0.05",  # strict enough to refuse some of thirty
)


def chosen(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("-s", override)]


def part_of(sample_id: int, weights: dict[str, float]) -> str:
    """The part that draws a sample of a run of seed 0."""
    return HybridRenderer({name: (weight, None) for name, weight in weights.items()}).part_of(sample_seed(0, sample_id))


@pytest.fixture(scope="module")
def mixed(cli, write_config, shared_tree, tmp_path_factory):
    """Configuration and store of 24 samples, without the gate."""
    folder = tmp_path_factory.mktemp("mixed")
    config = write_config(folder, shared_tree)
    answer = cli("generate", config, *chosen(REFERENCES, "generate.count=24"))
    assert answer.code == 0, answer.err
    return config, folder / "run" / "synthetic"


def test_every_line_names_its_part_and_kind_and_the_store_passes_the_audit(mixed, cli, shared_tree):
    lines = list(read_manifest(mixed[1]))
    for line in lines:
        assert line["notes"]["part"] == part_of(int(line["id"]), {"pasted": 2, "elsewhere": 1})
        assert line["renderer"] == KINDS[line["notes"]["part"]]
    assert {line["notes"]["part"] for line in lines} == set(KINDS)
    report = json.loads(cli("audit", mixed[1], "--data", shared_tree, "--json").out)
    assert (report["samples"], report["problems"]) == (24, [])


@pytest.mark.parametrize("part", list(KINDS))
def test_samples_of_a_part_are_those_of_its_renderer_alone(part, mixed, cli, write_config, shared_tree, tmp_path):
    alone = ("generate.count=24", f"renderer={{kind: {KINDS[part]}}}")
    answer = cli("generate", write_config(tmp_path, shared_tree), *chosen(*alone))
    assert answer.code == 0, answer.err
    own = {line["id"]: line for line in read_manifest(tmp_path / "run" / "synthetic")}
    lines = [line for line in read_manifest(mixed[1]) if line["notes"]["part"] == part]
    assert len(lines) > 4
    for line in lines:
        same = {**own[line["id"]], "notes": {"part": part}, "config_sha256": line["config_sha256"]}
        assert line == same  # hashes of the pictures among the rest


def test_replay_makes_the_same_bytes_and_the_card_names_the_parts(mixed, cli, tmp_path):
    config, store = mixed
    replayed = cli("replay", config, *chosen(REFERENCES), "--id", 5, "--output", tmp_path / "again.png")
    assert replayed.code == 0, replayed.err
    line = next(line for line in read_manifest(store) if line["id"] == "000005")
    assert (tmp_path / "again.png").read_bytes() == (store / line["image"]).read_bytes()
    answer = cli("card", store.parent)
    assert answer.code == 0, answer.err
    card = (store / "README.md").read_text()
    assert "| pasted (copy_paste) | 0 |" in card
    assert "- weight of pasted: 2.0" in card


def test_other_weights_are_another_store(mixed, cli):
    answer = cli("generate", mixed[0], *chosen(REFERENCES.replace("weight: 2", "weight: 3"), "generate.count=24"))
    assert answer.code == 2
    assert "config_sha256" in answer.complaint


@pytest.fixture(scope="module")
def gated(cli, write_config, shared_tree, tmp_path_factory):
    """Arguments of a gated run in a folder, and the store that one process makes."""

    def arguments(folder):
        folder.mkdir(exist_ok=True)
        return [write_config(folder, shared_tree), *chosen(REFERENCES, "generate.count=30", *GATE)]

    folder = tmp_path_factory.mktemp("gated")
    answer = cli("generate", *arguments(folder))
    assert answer.code == 0, answer.err
    return arguments, folder / "run" / "synthetic"


def test_a_redraw_keeps_the_part_and_copies_are_asked_of_parts_that_must_not_copy(gated):
    lines = list(read_manifest(gated[1]))
    refused = [json.loads(line) for line in (gated[1] / "rejected" / "rejected.jsonl").read_text().splitlines()]
    assert any(line["attempt"] > 0 for line in lines)
    for line in [*lines, *refused]:
        assert line["notes"]["part"] == part_of(int(line["id"]), {"pasted": 2, "elsewhere": 1})
        assert line["renderer"] == KINDS[line["notes"]["part"]]
        measures = line["gate"] if "gate" in line else line["checks"]["gate"]
        assert ("training_similarity" in measures) == (line["renderer"] == "cutpaste")


def test_shards_and_interruptions_make_the_store_of_one_process(gated, cli, tmp_path, contents):
    arguments, one = gated
    store = tmp_path / "shards" / "run" / "synthetic"
    for number in (3, 1, 4, 2):
        answer = cli("generate", *arguments(tmp_path / "shards"), "--shard", f"{number}/4")
        assert answer.code == 0, answer.err
    assert contents(store) == contents(one)

    manifest = store / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    (store / json.loads(lines[3])["image"]).unlink()
    manifest.write_text("".join(lines[:9] + lines[17:]))
    assert cli("generate", *arguments(tmp_path / "shards")).code == 0
    assert contents(store) == contents(one)


def with_fast(config, weights=(1, 1), **more) -> None:
    """Put the FAST of a configuration into a hybrid with copy-paste, and further parts."""
    values = yaml.safe_load(config.read_text())
    parts = {
        "FAST": {"weight": weights[0], "renderer": values["renderer"]},
        "pasted": {"weight": weights[1], "renderer": {"kind": "copy_paste", "context": 3.0}},
    }
    values["renderer"] = {"kind": "hybrid", "parts": {**parts, **more}}
    config.write_text(yaml.safe_dump(values))


def weights_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def trained(cli, write_config, shared_tree, tmp_path_factory):
    """`fastsynth run` with FAST and copy-paste, killed in the training of FAST and run again."""
    folder = tmp_path_factory.mktemp("trained")
    config, run = write_config(folder, shared_tree), folder / "run"
    with_fast(config)
    half_trained = lambda: any((run / "parts" / "FAST" / "checkpoints").glob("checkpoint-*"))  # noqa: E731
    assert cli.stop_when(half_trained, "train", config, by=signal.SIGKILL).code == -signal.SIGKILL
    assert not (run / "model" / "training.json").exists()
    answer = cli("run", config)
    assert answer.code == 0, answer.err
    return config, run


def test_a_part_is_trained_and_resumed_to_the_weights_of_the_renderer_alone(trained, whole_run):
    model = trained[1] / "model"
    assert weights_of(model / "FAST") == weights_of(whole_run.folder / "model") != {}
    told = json.loads((model / "training.json").read_text())
    assert told["steps"] == told["parts"]["FAST"]["steps"] == 3
    assert not (model / "pasted").exists()


def test_fast_draws_what_it_draws_alone_but_for_the_rounding_of_other_batches(trained, whole_run):
    alone = {line["id"]: line for line in read_manifest(whole_run.store)}
    lines = [line for line in read_manifest(trained[1] / "synthetic") if line["notes"]["part"] == "FAST"]
    assert 0 < len(lines) < 10
    for line in lines:
        one, other = read_image(trained[1] / "synthetic" / line["image"]), read_image(whole_run.store / line["image"])
        assert np.abs(one.astype(int) - other).max() <= 1
        assert (line["seed"], line["num_inference_steps"]) == (alone[line["id"]]["seed"], 2)


def test_verdict_report_and_figures_name_the_mix(trained, cli):
    config, run = trained
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    assert {row["renderer"] for row in rows} == {None, "hybrid (FAST 1, pasted 1)"}
    page = (run / "report.html").read_text()
    for words in ("FAST (fast), crack", "pasted (copy_paste), crack", "3 steps in", "hybrid (FAST 1, pasted 1)"):
        assert words in page
    answer = cli("evaluate", config)
    assert answer.code == 0, answer.err
    assert json.loads((run / "quality.json").read_text())["types"].keys() == {"blob", "crack"}
    assert load_config(RunConfig, run / "config.yaml") == load_config(RunConfig, config)
    again = cli("run", config, "--dry-run")
    assert "train: 3 steps\ngenerate: 10 samples by hybrid (FAST 1, pasted 1) in" in again.out


@pytest.fixture
def copied(trained, tmp_path):
    """The trained run at another place, without its store, to be changed at will."""
    run = tmp_path / "run"
    shutil.copytree(trained[1], run, ignore=shutil.ignore_patterns("segment", "synthetic", "cache"))
    values = {**yaml.safe_load(trained[0].read_text()), "output": str(run)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "config.yaml", run


def test_a_part_with_other_settings_is_refused(trained, cli):
    config, run = trained
    answer = cli("train", config, *chosen("renderer.parts.FAST.renderer.training.max_train_steps=5"))
    assert answer.code == 2
    assert f"{run / 'model' / 'FAST'} is trained with renderer.training.max_train_steps 3" in answer.complaint
    assert f"{run / 'parts' / 'FAST' / 'checkpoints'} to train again" in answer.complaint


def test_a_part_that_is_added_is_trained_beside_the_others(copied, cli):
    config, run = copied
    crn = {
        "kind": "crn",
        "crop_size": 32,
        "network": {"widths": [16, 12, 8]},
        "training": {
            "stage_steps": [2, 3],
            "calibration_steps": 1,
            "batch_size": 2,
            "trunk": "random",
            "defect_crops": 6,
            "normal_crops": 2,
        },
    }
    added = chosen(f"renderer.parts.drawn={json.dumps({'weight': 2, 'renderer': crn})}")
    refused = cli("generate", config, *added)
    assert refused.code == 2
    assert f"{run / 'model' / 'drawn'}: no trained renderer" in refused.complaint
    before = {path: path.stat().st_mtime_ns for path in (run / "model" / "FAST").rglob("*.safetensors")}
    answer = cli("train", config, *added)
    assert answer.code == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    told = json.loads((run / "model" / "training.json").read_text())
    assert (told["steps"], told["parts"].keys()) == (8, {"FAST", "drawn"})
    assert (run / "parts" / "drawn" / "checkpoints" / "stage-2").is_dir()
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {line["renderer"] for line in logged if "renderer" in line} == {"FAST", "drawn"}
    assert {(line["renderer"], line["part"]) for line in logged if "part" in line} >= {("drawn", "2 of 2")}

    answer = cli("generate", config, *added)
    assert answer.code == 0, answer.err
    lines = list(read_manifest(run / "synthetic"))
    weights = {"FAST": 1, "pasted": 1, "drawn": 2}
    assert [line["notes"]["part"] for line in lines] == [part_of(number, weights) for number in range(10)]
    assert {line["renderer"] for line in lines} == {"fast", "copy_paste", "crn"}
    assert all(line["truth"]["leak"] == 0 for line in lines)


def test_a_damaged_model_of_a_part_is_named(trained, cli):
    config, run = trained
    path = run / "model" / "FAST" / "unet" / "config.json"
    kept = path.read_bytes()
    path.write_bytes(kept + b" ")
    answer = cli("generate", config, *chosen("generate.count=40"))
    path.write_bytes(kept)
    assert answer.code == 2
    assert f"{path} is damaged" in answer.complaint


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ("{a: {weight: 0, renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "renderer.parts.a.weight: got 0; "),
        ("{a: {weight: -1, renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "greater than 0"),
        ("{a: {weight: .nan, renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "renderer.parts.a.weight: got nan"),
        ("{a: {renderer: {kind: nsa}}}", "at least 2 items"),
        ("{}", "at least 2 items"),
        ("{a: {renderer: {kind: hybrid, parts: {}}}, b: {renderer: {kind: nsa}}}", "cannot be part of a hybrid"),
        ("{a/b: {renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "a part is called 'a/b'"),
        ("{..: {renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "a part is called '..'"),
        ("{training.json: {renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "a part is called 'training.json'"),
        ("{'': {renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "a part is called ''"),
        ("{a: {renderer: {kind: nsa}}, A: {renderer: {kind: nsa}}}", "parts a and A differ in case alone"),
        ("{a: {renderer: {kind: nsa, scael: [1, 1]}}, b: {renderer: {kind: nsa}}}", "did you mean 'scale'?"),
        ("{a: {wieght: 1, renderer: {kind: nsa}}, b: {renderer: {kind: nsa}}}", "did you mean 'weight'?"),
        ("{a: {weight: 1}, b: {renderer: {kind: nsa}}}", "key 'renderer.parts.a.renderer' is missing; add it"),
    ],
)
def test_mistakes_in_a_mix_are_named(parts, complaint, write_config, shared_tree, tmp_path):
    config = write_config(tmp_path, shared_tree)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        load_config(RunConfig, config, [f"renderer={{kind: hybrid, parts: {parts}}}"])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mix_over_a_single_model_is_refused(copied_run, cli):
    with_fast(copied_run.config)
    answer = cli("train", copied_run.config)
    assert answer.code == 2
    assert f"{copied_run.folder / 'model'} is trained with " in answer.complaint


def test_the_parts_of_a_run_share_what_they_read(write_config, shared_tree, tmp_path):
    run = Run(load_config(RunConfig, write_config(tmp_path, shared_tree), [REFERENCES]))
    held = run.exemplars("train")
    for part in run.parts.values():
        assert all(one is other for one, other in zip(part.exemplars("train"), held, strict=True))
