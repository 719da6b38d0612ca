"""`store.json`: what a store was made from. Two runs may write into one store only when all of it is equal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fastsynth.files import read_json, write_json

IDENTITY = "store.json"


class Identity(TypedDict):
    """What a store was made from.

    model_sha256: None for renderers without a model.
    defects: class names in the order of their indices; a class-index PNG holds 1 for the first.
    gate: dotted key → value of the gate's settings; absent when every sample was kept.
    notice: what every line and every export must say; absent when the data ask for nothing of the kind.
    """

    config_sha256: str
    model_sha256: str | None
    data_sha256: str
    run_seed: int
    version: str
    defects: list[str]
    gate: NotRequired[dict[str, Any]]
    notice: NotRequired[str]


def settle_identity(folder: Path, identity: Identity) -> None:
    """Write it, or compare it with what is there. Raises ValueError that names what differs."""
    path = folder / IDENTITY
    if not path.is_file():
        write_json(path, identity)
    stored = read_json(path)
    for key in sorted(identity.keys() | stored.keys()):
        if stored.get(key) != identity.get(key):
            difference = f"{key} {stored.get(key)!r}, this run has {identity.get(key)!r}"
            if key == "gate":
                difference = _gate_difference(stored.get("gate"), identity.get("gate"))
            raise ValueError(
                f"{folder} was made with {difference}; write to another folder, or delete this one to start over"
            )


def _gate_difference(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Which settings of the gate differ, in one line."""
    if was is None or now is None:
        return f"generate.gate.enabled {was is not None}, this run has {now is not None}"
    changed = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    each = ", ".join(f"{key} {was.get(key)!r} (this run has {now.get(key)!r})" for key in changed)
    return f"{each}; `fastsynth filter` judges its samples by the new ones"
