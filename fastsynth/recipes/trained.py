"""What a trained renderer leaves beside its weights: how it was trained, and the hash of every file. No torch."""

from pathlib import Path
from typing import Any

from fastsynth.files import read_json, sha256_file, sha256_json, write_json
from fastsynth.run import TRAINED_FROM, Run

TRAINED = "training.json"


def made_from(run: Run) -> str:
    """Hash of all settings and images on which the trained weights depend: whose a checkpoint is."""
    return sha256_json([run.training_settings(), run.training_sha256()])


def write_trained(folder: Path, summary: dict[str, Any]) -> None:
    """The last file of a saved model: `summary`, and the hashes of what was saved."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    hashes = {name: sha256_file(folder / name) for name in names if name not in (TRAINED, TRAINED_FROM)}
    write_json(folder / TRAINED, {**summary, "sha256": hashes})


def verify_trained(folder: Path) -> None:
    """Raises ValueError that names the first file that is not the one which was saved."""
    for name, wanted in read_json(folder / TRAINED)["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing; restore it, or delete {folder} and train again")
        if sha256_file(path) != wanted:
            raise ValueError(f"{path} is damaged or of another model; restore it, or delete {folder} and train again")
