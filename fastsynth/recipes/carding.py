"""The card of a run's store. Only the run folder is needed, not the data."""

from pathlib import Path

from fastsynth.config import dump_config, load_config
from fastsynth.data.card import make_card
from fastsynth.data.manifest import CARD
from fastsynth.files import atomic_write
from fastsynth.run_config import RunConfig


def write_card(run: Path, overrides: list[str]) -> Path:
    """Write README.md into the store of a run, given by its configuration or its folder; returns the path.

    Like every stage it leaves the configuration in the run folder: from there exports know the licence.

    Raises FileNotFoundError without a run or a store, ValueError for a configuration that does not fit.
    """
    path = run / "config.yaml" if run.is_dir() else run
    if run.is_dir() and not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass a configuration or the folder of its run, not the store")
    config = load_config(RunConfig, path, overrides)
    folder = run if run.is_dir() else config.output
    store = folder / "synthetic"
    text = make_card(store, config=config.model_dump(mode="json"))
    atomic_write(folder / "config.yaml", dump_config(config).encode())
    atomic_write(store / CARD, text.encode())
    return store / CARD
