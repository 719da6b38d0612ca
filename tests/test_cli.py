import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastsynth import __version__
from fastsynth.cli import preset
from fastsynth.config import dump_config, load_config
from fastsynth.run_config import RunConfig

VERBS = [
    *("doctor", "demo", "run", "masks", "train", "generate", "audit", "replay", "augment", "compare", "report"),
    *("data check", "data split", "data demo", "segment train", "segment eval", "segment predict"),
    *("config show", "config check", "config schema"),
]


@pytest.fixture
def config(write_config, shared_tree, tmp_path) -> Path:
    return write_config(tmp_path, shared_tree)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(call, verb):
    answer = call(*verb.split(), "--help")
    assert answer.code == 0
    assert f"fastsynth {verb} [OPTIONS]" in answer.out
    sentence = answer.out.splitlines()[3].strip()
    assert sentence
    assert sentence[0].isupper()


def test_the_help_lists_every_verb(call):
    listed = call("--help").out
    assert all(verb.split()[0] in listed for verb in VERBS)


def test_the_version_is_that_of_the_package_also_as_a_module(call):
    answer = call("--version")
    assert (answer.code, answer.out) == (0, f"fastsynth {__version__}\n")
    command = [sys.executable, "-m", "fastsynth", "--version"]
    module = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (module.returncode, module.stdout, module.stderr) == (0, answer.out, "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nosuchverb",),
        ("train",),
        ("train", "a.yaml", "b.yaml"),
        ("generate", "a.yaml", "--nosuchoption"),
        ("masks", "a.yaml", "--count", "0"),
        ("replay", "a.yaml", "--id", "-1"),
        ("train", "a.yaml", "--seed", "one"),
        ("train", "absent.yaml"),
        ("data", "check", "absent"),
        ("report", "absent"),
        ("segment", "predict", "absent", "--model", "absent"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_without_a_traceback(call, arguments):
    answer = call(*arguments)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert answer.err or answer.out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.cuont=3", "unknown key 'generate.cuont'; did you mean 'count'?"),
        ("renderer.trainig.batch_size=3", "unknown key 'renderer.trainig'; did you mean 'training'?"),
        ("generate.count=0", "generate.count: got 0"),
        ("device=gpu", "device: got 'gpu'"),
        ("generate.count", "has no value; write key.sub=value"),
    ],
)
def test_a_mistake_in_the_configuration_exits_with_2_and_names_the_key(call, config, override, message):
    answer = call("config", "check", config, "-s", override)
    assert answer.code == 2
    assert message in answer.complaint


def test_a_file_that_is_not_yaml_exits_with_2_and_is_named(call, tmp_path):
    (tmp_path / "broken.yaml").write_text("output: [runs\n")
    answer = call("train", tmp_path / "broken.yaml")
    assert answer.code == 2
    assert "broken.yaml: not valid YAML" in answer.complaint


def test_a_device_that_is_not_there_exits_with_2_and_says_what_is(cli, config):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    answer = cli("train", config, "--device", "cuda")
    assert answer.code == 2
    assert "device is cuda, but this machine has cpu" in answer.complaint


def test_config_show_prints_everything_and_loads_back_equal(call, config, tmp_path):
    answer = call("config", "show", config, "-s", "generate.count=7")
    assert answer.code == 0
    (tmp_path / "shown.yaml").write_text(answer.out)
    shown = load_config(RunConfig, tmp_path / "shown.yaml")
    assert shown == load_config(RunConfig, config, ["generate.count=7"])
    assert answer.out == dump_config(shown)


def test_config_check_says_fine_for_every_preset(call):
    for name in ("demo", "smoke"):
        answer = call("config", "check", preset(name))
        assert (answer.code, answer.out) == (0, f"{preset(name)}: fine\n")


def test_tables_and_photo_renderers_are_checked_and_shown_too(call, config, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(f"run: {config}\noutput: {tmp_path}/table\nrows: {{pasted: {{renderer: {{kind: copy_paste}}}}}}\n")
    assert call("config", "check", table).out == f"{table}: fine\n"
    assert "pasted:" in call("config", "show", table).out
    answer = call("config", "check", table, "-s", "rows.pasted.renderer.kind=copy")
    assert answer.code == 2
    assert "rows.pasted: renderer.kind: got 'copy'" in answer.complaint
    photos = preset("demo").with_name("facades_crn.yaml")
    assert call("config", "check", photos).out == f"{photos}: fine\n"


def test_what_has_nothing_to_train_says_so(cli, config):
    answer = cli("train", config, "-s", "renderer={kind: copy_paste}")
    assert (answer.code, answer.out) == (0, "copy_paste: nothing to train; run `fastsynth generate`\n")


def test_config_schema_has_a_sentence_on_the_keys(call):
    answer = call("config", "schema")
    schema = json.loads(answer.out)
    assert schema["properties"]["output"]["description"].startswith("Folder of the run")
    assert set(schema["required"]) == {"output", "data"}
    for name, section in {"run": schema, **schema["$defs"]}.items():
        assert section["description"].strip(), name
        # what is itself a section has its sentence there
        silent = {key for key, told in section["properties"].items() if not told.keys() & {"description", "$ref"}}
        assert silent <= {"kind"}, (name, silent)


@pytest.mark.parametrize("verb", ["run", "train", "generate"])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(cli, config, tmp_path, verb):
    answer = cli(verb, config, "--seed", 4, "--dry-run")
    assert answer.code == 0
    assert "2 validation" in answer.out
    assert "generate: 10 samples by fast in" in answer.out
    assert "compare: 2 arms" in answer.out
    assert not (tmp_path / "run").exists()


def test_generate_before_train_says_so_and_does_not_spoil_the_store(cli, config, tmp_path):
    answer = cli("generate", config)
    assert answer.code == 2
    assert "no trained renderer; run `fastsynth train` first" in answer.complaint
    assert not (tmp_path / "run" / "synthetic").exists()


def test_the_steps_of_a_run_work_one_by_one_and_print_what_they_made(cli, config, tmp_path):
    folder = tmp_path / "run"
    divided = cli("data", "split", config).out.splitlines()
    assert divided[0] == f"{folder / 'split.json'}: 12 training, 2 validation, 12 test images"
    assert divided[1:] == [
        "blob: training 2, test 4",
        "crack: training 2, test 4",
        "normal: training 8, validation 2, test 4",
    ]
    assert cli("masks", config, "--count", 4).out == f"{folder / 'sheets' / 'layouts.png'}\n"
    assert cli("train", config).out == f"{folder / 'model'}\n"
    made = cli("generate", config, "-s", "generate.count=2")
    assert made.out == f"{folder / 'synthetic'}\n{folder / 'sheet.png'}\n"
    assert cli("augment", config, "--preview").out == f"{folder / 'sheets' / 'augmentation.png'}\n"
    assert cli("augment", config, "--copies", 2).out == f"{folder / 'augmented'}\n"
    assert len(list((folder / "augmented").rglob("*_mask.png"))) == 4
    assert cli("report", folder).out == f"{folder / 'report.html'}\n"
    assert cli("report", config).out == f"{folder / 'report.html'}\n"
    for path in ("sheets/layouts.png", "sheet.png", "sheets/augmentation.png", "report.html"):
        assert (folder / path).stat().st_size > 0


def test_a_segmenter_is_trained_scored_and_used(cli, config, shared_tree, tmp_path):
    answer = cli("segment", "train", config, "--seed", 5)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("real, seed 5: mIoU ")
    model = tmp_path / "run" / "segment" / "real" / "seed-5" / "segmenter"

    answer = cli("segment", "eval", config, "--model", model, "--json")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out).keys() == {"mean over types", "blob", "crack"}

    images = shared_tree / "test" / "crack"
    answer = cli("segment", "predict", images, "--model", model, "--output", tmp_path / "masks")
    assert answer.out == f"{tmp_path / 'masks'}: 6 masks\n"
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 6

    twins = tmp_path / "twins"
    twins.mkdir()
    for name in ("a.png", "a.bmp"):
        (twins / name).write_bytes(next(images.glob("*.png")).read_bytes())
    answer = cli("segment", "predict", twins, "--model", model, "--output", tmp_path / "none")
    assert (answer.code, (tmp_path / "none").exists()) == (2, False)
    assert "a.png and a.bmp would both write a_mask.png; rename one of them" in answer.complaint


def test_no_library_says_anything_while_it_is_imported(cli):
    assert cli.said_while_importing == ""


def test_an_arm_that_is_not_planned_is_refused_with_those_that_are(cli, config):
    answer = cli("segment", "train", config, "--arm", "synthetic")
    assert answer.code == 2
    assert "no arm 'synthetic' in this configuration; there are: real, real+synthetic-1" in answer.complaint


def test_audit_exits_with_3_when_a_promise_is_broken(cli, shared_tree, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "manifest.jsonl").write_text('{"id": "000000"}\n')
    answer = cli("audit", tmp_path / "store", "--data", shared_tree, "--json")
    assert answer.code == 3
    assert json.loads(answer.out)["problems"]


def test_doctor_prints_json_that_parses(cli, shared_tree, tmp_path):
    answer = cli("doctor", "--data", shared_tree, "--output", tmp_path / "runs", "--json")
    findings = json.loads(answer.out)
    assert {finding["topic"] for finding in findings} >= {"python", "device", "data"}
    assert answer.code == (3 if any(finding["level"] == "fail" for finding in findings) else 0)


def test_the_demos_data_can_be_drawn_as_large_as_wanted_but_never_over_something(call, tmp_path):
    wanted = ("data", "demo", str(tmp_path / "drawn"), "--normals", "2", "--defects", "2", "--side", "64")
    assert call(*wanted).code == 0
    assert call("data", "check", str(tmp_path / "drawn")).out.startswith("8 normal and 16 defect images, 0 problems")
    before = sorted(path.read_bytes() for path in tmp_path.rglob("*.png"))
    again = call(*wanted, "--seed", "1")
    assert (again.code, again.complaint) == (1, f"fastsynth: {tmp_path / 'drawn'} exists; choose a new folder")
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*.png")) == before
