"""Every result file has the same head: command, commit, machine."""

from pathlib import Path
from typing import Any

from fastsynth.environment import environment
from fastsynth.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def record(name: str, values: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json: who measured, on what, and `values`."""
    surroundings = environment()
    head = {key: surroundings[key] for key in ("command", "commit", "created")}
    machine = {key: surroundings[key] for key in ("processor", "cores", "memory_gb")}
    path = RESULTS / f"{name}.json"
    write_json(path, {**head, "machine": machine, "packages": surroundings["packages"], **values})
    return path
