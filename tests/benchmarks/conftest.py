from pathlib import Path

import pytest

from fastsynth.config import load_config
from fastsynth.recipes.rendering import train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


@pytest.fixture(scope="session")
def trained(write_config, shared_tree, tmp_path_factory) -> Path:
    """Configuration of a run whose model has taken three steps."""
    config = write_config(tmp_path_factory.mktemp("trained"), shared_tree)
    train_renderer(Run(load_config(RunConfig, config)))
    return config
