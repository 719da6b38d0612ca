"""Typed configuration: YAML in, dotted overrides, YAML out. No torch.

A config class lives beside what it configures; algorithms never see one, they get its values as arguments.
"""

import difflib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fastsynth.files import sha256_json


class Config(BaseModel):
    """Frozen, and strict about names: an unknown key is an error that names the closest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], path: Path, overrides: Iterable[str] = ()) -> ConfigT:
    """Read a YAML file, apply `key.sub=value` overrides, validate.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or a key or value that does not fit; one line per problem.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; wanted `key: value` lines")
    for override in overrides:
        _apply(values, override)
    return parse_config(kind, values, source=str(path))


def parse_config(kind: type[ConfigT], values: dict[str, Any], *, source: str) -> ConfigT:
    """Validate plain values. Raises ValueError with one line per problem, each starting with `source`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"{source}: {_explain(kind, item)}" for item in error.errors()]
        raise ValueError("\n".join(lines)) from None


def dump_config(config: Config) -> str:
    """The complete YAML, defaults included. Loading it back gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_sha256(config: Config) -> str:
    return sha256_json(config.model_dump(mode="json"))


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ValueError(f"override {override!r} has no value; write key.sub=value")
    *parents, last = name.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"override {override!r}: {parent} is a value, it has no keys below it")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not valid YAML") from error


def _explain(kind: type[Config], item: Any) -> str:
    """One readable line from one pydantic error."""
    where = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, where[:-1])
        where = [*_without_tags(kind, where[:-1]), where[-1]]
        close = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {'.'.join(where)!r}; {hint}"
    where = _without_tags(kind, where)
    if item["type"] == "missing":
        return f"key {'.'.join(where)!r} is missing; add it"
    return f"{'.'.join(where) or 'config'}: got {item['input']!r}; {item['msg'].removeprefix('Value error, ')}"


def _fields_at(kind: Any, where: list[str]) -> set[str]:
    """Names of the fields of every config class that may stand at `where`."""
    classes = _config_classes(kind)
    for part in where:
        fields = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        # a part that is no field is the tag of a discriminated union or an index: stay where we are
        classes = [found for field in fields for found in _config_classes(field)] or classes
    return {name for cls in classes for name in cls.model_fields}


def _without_tags(kind: Any, where: list[str]) -> list[str]:
    """The path as the user wrote it: pydantic names the chosen member of a union as if it were a key."""
    classes, kept = _config_classes(kind), []
    for part in where:
        fields = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        if fields or not classes or part.isdigit():
            kept.append(part)
            classes = [found for field in fields for found in _config_classes(field)]
    return kept


def _config_classes(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict) or get_args(annotation):
        return [found for part in get_args(annotation) for found in _config_classes(part)]
    return []
