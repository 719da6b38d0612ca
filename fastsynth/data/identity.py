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
    gate_sha256: hash of the gate's settings; absent when every sample was kept.
    gate: those settings, dotted key → value; only to name what differs, the hash decides.
    notice: what every line and every export must say; absent when the data ask for nothing of the kind.
    """

    config_sha256: str
    model_sha256: str | None
    data_sha256: str
    run_seed: int
    version: str
    defects: list[str]
    gate_sha256: NotRequired[str]
    gate: NotRequired[dict[str, Any]]
    notice: NotRequired[str]


def settle_identity(folder: Path, identity: Identity) -> None:
    """Write it, or compare it with what is there. Raises ValueError that names what differs."""
    path = folder / IDENTITY
    if not path.is_file():
        write_json(path, identity)
    stored = read_json(path)
    for key in sorted((identity.keys() | stored.keys()) - {"gate"}):
        if stored.get(key) != identity.get(key):
            difference = f"{key} {stored.get(key)!r}, this run has {identity.get(key)!r}"
            if key == "gate_sha256":
                difference = _gate_difference(stored, identity)
            raise ValueError(
                f"{folder} was made with {difference}; write to another folder, or delete this one to start over"
            )


def _gate_difference(stored: Mapping[str, Any], identity: Identity) -> str:
    """Which settings of the gate differ, in one line."""
    if "gate_sha256" not in stored or "gate_sha256" not in identity:
        had, has = ("gate_sha256" in one for one in (stored, identity))
        return f"generate.gate.enabled {had}, this run has {has}"
    was, now = stored.get("gate"), identity.get("gate", {})
    judge = "`fastsynth filter` judges its samples by the new ones"
    if was is None:  # of a store that knows the hash alone
        return f"other settings of generate.gate; {judge}"
    changed = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    each = ", ".join(f"{key} {was.get(key)!r} (this run has {now.get(key)!r})" for key in changed)
    return f"{each}; {judge}"
