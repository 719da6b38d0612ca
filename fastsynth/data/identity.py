"""`store.json`: what a store was made from. Two runs may write into one store only when all of it is equal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from fastsynth.data.manifest import check_name
from fastsynth.errors import shown
from fastsynth.files import read_json, write_json

IDENTITY = "store.json"
MOST_DEFECTS = 255
"""Class indices have 8 bits, and 0 is the background."""


SCALARS = (str, bool, int, float, type(None))
TEXT = ((str,), "a text")
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "config_sha256": TEXT,
    "model_sha256": ((str, type(None)), "a text or null"),
    "data_sha256": TEXT,
    "run_seed": ((int,), "a whole number"),
    "version": TEXT,
    "defects": ((list,), "a list of names"),
    "gate": ((dict,), "an object of settings"),
    "notice": TEXT,
    "halo": ((int,), "a whole number"),
}
OPTIONAL = ("gate", "notice", "halo")


class Identity(TypedDict):
    """What a store was made from.

    model_sha256: None for renderers without a model.
    defects: class names in the order of their indices; a class-index PNG holds 1 for the first.
    gate: dotted key → value of the gate's settings; absent when every sample was kept.
    notice: what every line and every export must say; absent when the data ask for nothing of the kind.
    halo: pixels by which the masks are wider than an annotator's; absent when they are not.
    """

    config_sha256: str
    model_sha256: str | None
    data_sha256: str
    run_seed: int
    version: str
    defects: list[str]
    gate: NotRequired[dict[str, Any]]
    notice: NotRequired[str]
    halo: NotRequired[int]


def read_identity(folder: Path) -> Identity:
    """What the store in `folder` was made from. Keys that are not `Identity`'s are kept.

    Raises FileNotFoundError when it is not a store, ValueError when a value is not of its kind.
    """
    path = folder / IDENTITY
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass the folder of a store, e.g. runs/x/synthetic")
    value = read_json(path)
    try:
        _check(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; restore the file, or delete the store and make it again") from None
    return cast(Identity, value)


def _check(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"it holds {shown(value)}; wanted an object with the keys of a store")
    for key, (kinds, wanted) in KINDS.items():
        if key not in value and key not in OPTIONAL:
            raise ValueError(f"{key} is missing")
        if key in value and type(value[key]) not in kinds:
            raise ValueError(f"{key} is {shown(value[key])}; wanted {wanted}")
    defects = value["defects"]
    if not 0 < len(defects) <= MOST_DEFECTS:
        raise ValueError(f"defects has {len(defects)} names; wanted 1 to {MOST_DEFECTS}")
    for name in defects:
        check_name(name, "one of defects")
    if len(set(defects)) < len(defects):
        raise ValueError(f"defects is {shown(defects)}; wanted every name once")
    for key, setting in value.get("gate", {}).items():
        if not all(type(item) in SCALARS for item in (setting if type(setting) is list else [setting])):
            raise ValueError(f"gate has {shown(key)}: {shown(setting)}; wanted a plain value or a list of them")


def settle_identity(folder: Path, identity: Identity) -> None:
    """Write it, or compare it with what is there. Raises ValueError that names what differs or cannot be."""
    if not (folder / IDENTITY).is_file():
        _check(identity)
        write_json(folder / IDENTITY, identity)
    require_identity(folder, identity)


def require_identity(folder: Path, identity: Identity) -> None:
    """Raises ValueError that names what differs from what is there, if there is a store; writes nothing."""
    if not (folder / IDENTITY).is_file():
        return
    stored: dict[str, Any] = {**read_identity(folder)}
    for key in sorted(identity.keys() | stored.keys(), key=lambda key: (key.endswith("sha256"), key)):
        if stored.get(key) != identity.get(key):
            difference = f"{key} {shown(stored.get(key))}, this run has {shown(identity.get(key))}"
            if key == "gate":
                difference = _gate_difference(stored.get("gate"), identity.get("gate"))
            if key == "config_sha256" and stored.get("run_seed") == identity["run_seed"]:
                difference = f"other settings of renderer, layouts or split ({difference})"
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
