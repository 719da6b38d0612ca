import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastsynth.data.check import Problem
from fastsynth.doctor import PLANNED_IMAGES, SHOWN_PROBLEMS, check_requirements, diagnose, summarise_problems
from fastsynth.environment import environment, memory_bytes, portable_command
from fastsynth.files import atomic_write
from fastsynth.images import encode_png


@pytest.fixture
def data_root(tmp_path) -> Path:
    root = tmp_path / "tiles"
    rng = np.random.default_rng(0)
    for name in (
        "normal/1.png",
        "normal/2.png",
        "defects/crack/1.png",
        "defects/crack/2.png",
        "defects/pit/3.png",
        "defects/pit/4.png",
    ):
        atomic_write(root / name, encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)))
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    for name in ("masks/crack/1.png", "masks/crack/2.png", "masks/pit/3.png", "masks/pit/4.png"):
        atomic_write(root / name, encode_png(mask))
    return root


def levels(findings, topic):
    return [finding.level for finding in findings if finding.topic == topic]


def messages(findings, topic):
    return " | ".join(finding.message for finding in findings if finding.topic == topic)


def test_a_sound_data_set_has_its_images_counted_and_no_complaint(data_root, tmp_path):
    findings = diagnose(data_root, tmp_path / "runs" / "first")
    assert {finding.topic for finding in findings} >= {"python", "device", "memory", "run folder", "disk", "data"}
    assert set(levels(findings, "data")) == {"ok"}
    assert "tiles: 2 normal images, defects: 2 crack, 2 pit" in messages(findings, "data")
    assert f"{PLANNED_IMAGES:,} images" in messages(findings, "disk")
    assert not (tmp_path / "runs").exists()


def test_every_fault_in_the_data_is_a_finding(data_root):
    (data_root / "masks/pit/3.png").unlink()
    (data_root / "normal/2.png").write_bytes(b"no picture")
    atomic_write(data_root / "masks/crack/9.png", encode_png(np.full((32, 32), 255, np.uint8)))
    findings = diagnose(data_root, None)
    faults = {finding.message.split(":")[0]: finding.level for finding in findings if finding.level != "ok"}
    assert faults["defects/pit/3.png"] == faults["normal/2.png"] == "fail"
    assert faults["masks/crack/9.png"] == "warn"


def test_a_missing_data_folder_is_a_finding(tmp_path):
    assert "nowhere" in messages(diagnose(tmp_path / "nowhere", tmp_path), "data")
    assert levels(diagnose(tmp_path / "nowhere", tmp_path), "data") == ["fail"]


def test_a_run_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert levels(diagnose(None, tmp_path / "file" / "run"), "run folder") == ["fail"]


def test_versions_are_compared_with_the_requirements():
    installed = importlib.metadata.version("numpy")
    found = list(
        check_requirements(
            [
                "numpy>=1.26",
                f"numpy<{installed}",
                "no-such-package-anywhere>=2",
                "no-such-package-anywhere>=2; extra == 'offline'",
                "no-such-package-anywhere>=2; extra == 'dev'",
                "no-such-package-anywhere; python_version < '3'",
            ]
        )
    )
    assert [finding.level for finding in found] == ["ok", "fail", "fail", "warn"]
    assert f"run: pip install 'numpy<{installed}'" in found[1].message
    assert "pip install 'no-such-package-anywhere>=2'" in found[2].message
    assert "fastsynth[offline]" in found[3].message


def test_many_problems_of_a_kind_are_named_a_few_times_and_counted():
    problems = [Problem(f"{number}.png", "empty_mask", "no pixel is marked") for number in range(40)]
    findings = summarise_problems(problems)
    assert len(findings) == SHOWN_PROBLEMS + 1
    assert str(40 - SHOWN_PROBLEMS) in findings[-1].message
    assert {finding.level for finding in findings} == {"fail"}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/home/ann/.venv/bin/fastsynth", "run", "x.yaml"], "fastsynth run x.yaml"),
        (["/site-packages/fastsynth/__main__.py", "demo"], "python -m fastsynth demo"),
        (["fastsynth", "run", "/home/ann/project/configs/x.yaml"], "fastsynth run configs/x.yaml"),
        (["fastsynth", "-s", "data.root=/home/ann/tiles"], "fastsynth -s data.root=../tiles"),
        (["fastsynth", "-s", "data.root=/mnt/disk/tiles"], "fastsynth -s 'data.root=…/tiles'"),
        (["fastsynth", "-s", "name=two words"], "fastsynth -s 'name=two words'"),
        (["fastsynth"], "fastsynth"),
    ],
)
def test_a_recorded_command_names_no_folder_of_this_machine(arguments, command):
    recorded = portable_command(arguments, Path("/home/ann/project"))
    assert recorded == command
    assert "/home/ann" not in recorded


def run_python(code: str) -> str:
    root = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_the_environment_is_json_and_imports_no_torch():
    told = json.loads(
        run_python(
            "import json, sys; from fastsynth.environment import environment; "
            "print(json.dumps(environment())); assert 'torch' not in sys.modules"
        )
    )
    assert told["packages"]["numpy"] == np.__version__
    assert told["python"] == sys.version.split()[0]
    assert told.keys() == environment().keys()


def test_peak_memory_is_that_of_the_largest_process():
    import_it = "from fastsynth.environment import peak_memory_mb; "
    hold = "held = bytearray(b'x') * 200_000_000; "
    bare, holding = (float(run_python(import_it + code + "print(peak_memory_mb())")) for code in ("", hold))
    parent = float(
        run_python(
            "import subprocess, sys; "
            + import_it
            + f"subprocess.run([sys.executable, '-c', \"{hold}\"]); print(peak_memory_mb())"
        )
    )
    assert 200 < holding < bare + 250
    assert 200 < parent < memory_bytes() / 1e6


def test_the_peak_of_a_stage_forgets_the_stages_before():
    code = (
        "from fastsynth.environment import peak_memory_mb, reset_peak_memory, stage_peak_mb\n"
        "for size in (400_000_000, 100_000_000):\n"
        "    reset_peak_memory()\n"
        "    held = bytearray(b'x') * size\n"
        "    del held\n"
        "    print(stage_peak_mb())\n"
        "print(peak_memory_mb())\n"
    )
    first, second, highest = map(float, run_python(code).split())
    assert 400 < first < 500
    assert highest >= first  # on Linux a child begins with the peak of whoever started it
    if Path("/proc/self/clear_refs").is_file():  # elsewhere the mark cannot be put back
        assert 100 < second < 200
