import configparser
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from fastsynth.bench_config import load_bench
from fastsynth.config import dump_config, load_config, parse_config
from fastsynth.diffusion.pretrain import AutoencoderConfig
from fastsynth.diffusion.pretrain_base import BasePretrainConfig
from fastsynth.diffusion.pretrain_decoder import DecoderConfig
from fastsynth.run_config import RunConfig
from generators.layout_config import PhotoConfig

ROOT = Path(__file__).parents[1]
RECIPES = {"autoencoder": AutoencoderConfig, "base_pretrain": BasePretrainConfig, "decoder": DecoderConfig}
RUN_CONFIGS = sorted(
    path
    for path in (ROOT / "configs").glob("*.yaml")
    if path.stem not in RECIPES and not path.stem.startswith(("bench_", "facades_"))
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}
    )


def test_the_wheel_installs_these_packages_and_no_other(wheel):
    names = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = [name for name in names if name.endswith(".dist-info")]
    assert names - {info} == {"fastsynth", "generators", "segment"}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_every_module_and_data_file_of_the_checkout_is_in_the_wheel(wheel):
    packaged = set(wheel.namelist())
    for package in ("fastsynth", "generators", "segment"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in packaged
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"fastsynth/configs/{path.name}" in packaged


def test_the_console_command_points_at_a_function_that_exists(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(name).decode())
    target = entry_points["console_scripts"]["fastsynth"]
    assert target == "fastsynth.cli:main"
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys; sys.argv = ['fastsynth', '--help']; from fastsynth.cli import app\n"
        "try: app()\n"
        "finally: print('loaded:', sorted({'torch', 'diffusers', 'albumentations'} & sys.modules.keys()))"
    )
    before = os.times()
    answer = run_python(code)
    after = os.times()
    assert answer.returncode == 0, answer.stderr
    assert "doctor" in answer.stdout
    assert "loaded: []" in answer.stdout
    # processor time: wall time would measure what else the machine is doing
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0


def test_the_packages_import_without_torch():
    answer = run_python("import sys, fastsynth, generators, segment; print('torch' in sys.modules)")
    assert answer.stdout.strip() == "False", answer.stderr


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    config = load_config(RunConfig, path)
    assert parse_config(RunConfig, yaml.safe_load(dump_config(config)), source=path.name) == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("facades_*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_photo_config_is_valid(path):
    config = load_config(PhotoConfig, path)
    assert parse_config(PhotoConfig, yaml.safe_load(dump_config(config)), source=path.name) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_shipped_weights_is_valid(name):
    config = load_config(RECIPES[name], ROOT / "configs" / f"{name}.yaml")
    assert parse_config(RECIPES[name], yaml.safe_load(dump_config(config)), source=name) == config


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("bench_*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_table_is_valid(path):
    table = load_bench(path, [])
    assert list(table.rows) == list(table.config.rows)


def test_the_tested_versions_satisfy_the_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["offline"]]
    lines = (ROOT / "requirements" / "tested.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(tested[requirement.name.lower()]), requirement.name
