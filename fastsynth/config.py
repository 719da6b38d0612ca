"""Typed configuration: YAML in, dotted overrides, YAML out. No torch.

A config class lives beside what it configures; algorithms never see one, they get its values as arguments.
"""

import difflib
import os
import types
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from fastsynth.errors import SHOWN, shorten_words, shortened, shown
from fastsynth.files import read_at_most, sha256_json

MAX_YAML_BYTES = 200_000
"""Larger files are refused before they are read: no configuration comes near."""
MAX_DEPTH = 50
"""Of lists and mappings in one another."""
MAX_INTEGER = 2**63 - 1
"""Of a seed or any other whole number."""
MAX_PROBLEMS = 20
"""Lines of an error; the others are counted."""


class Config(BaseModel):
    """Frozen, and strict about names: an unknown key is an error that names the closest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truths_as_numbers(cls, values: Any) -> Any:
        """pydantic takes true for 1; as a text it is refused, in its place."""
        if not isinstance(values, dict):
            return values
        numbers = _number_keys(cls)
        return {key: _truths_as_texts(value) if key in numbers else value for key, value in values.items()}

    @field_validator("*")
    @classmethod
    def _refuse_impossible_paths(cls, value: Any) -> Any:
        if isinstance(value, Path):
            try:
                name = os.fsencode(value)
            except UnicodeEncodeError:
                raise ValueError("no file can have this name; it holds half of a character") from None
            if b"\0" in name:
                raise ValueError("no file can have this name; it holds a NUL character")
        return value


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], path: Path, overrides: Iterable[str] = ()) -> ConfigT:
    """Read a YAML file, apply `key.sub=value` overrides, validate.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or a key or value that does not fit; one line per problem.
    """
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}; wanted `key: value` lines")
    for override in overrides:
        _apply(values, override)
    return parse_config(kind, values, source=str(path))


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file; dates stay texts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, too large, not YAML, aliases, tags, endless nesting or digits; one line.
    """
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"{path}: no such config file")
    data = read_at_most(path, MAX_YAML_BYTES, kind="YAML")
    try:
        return _parse_yaml(data.decode())
    except ValueError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error


def parse_config(kind: type[ConfigT], values: dict[str, Any], *, source: str) -> ConfigT:
    """Validate plain values. Raises ValueError with one line per problem, each starting with `source`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [f"{source}: {_explain(kind, item)}" for item in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"{source}: and {len(problems) - MAX_PROBLEMS} more")
        raise ValueError("\n".join(lines)) from None


def dump_config(config: Config) -> str:
    """The complete YAML, defaults included. Loading it back gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_sha256(config: Config) -> str:
    return sha256_json(config.model_dump(mode="json"))


WANTED = {
    "model_type": "wanted keys below it",
    "model_attributes_type": "wanted keys below it",
    "dict_type": "wanted keys below it",
    "tuple_type": "wanted a list, like [0, 1]",
    "list_type": "wanted a list, like [0, 1]",
    "path_type": "wanted a path",
}
"""Type of a pydantic error → what to write instead, where its own message speaks of Python."""


class _Loader(yaml.SafeLoader):
    """Plain values alone: no aliases, by which a few lines become millions of values, no tags, no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way)
        first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            problem = f"alias *{event.anchor}; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem=f"tag {event.tag}; write a plain value", problem_mark=mark)
        if self.depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"key {shown(key.value)} is there twice; keep one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)

    def whole_number(self, node: Any) -> int:
        try:
            number = int(self.construct_yaml_int(node))
        except ValueError:  # `0x_`, or thousands of digits
            number = MAX_INTEGER + 1
        if abs(number) > MAX_INTEGER:
            problem = f"{shown(node.value)} is no whole number of at most {MAX_INTEGER:,}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.whole_number)


def _parse_yaml(text: str) -> Any:
    """Raises ValueError in one line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark and "\n" in text else ""
        raise ValueError(where + _one_line(str(error.problem or error.context))) from None
    except yaml.YAMLError as error:
        raise ValueError(_one_line(str(error))) from None


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ValueError(f"override {shown(override)} has no {'key' if separator else 'value'}; write key.sub=value")
    *parents, last = name.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"override {shown(override)}: {_printable(parent)} is a value, it has no keys below it")
        node = child
    try:
        node[last] = _parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"override {shown(override)}: the value is not valid YAML: {error}") from error


def _explain(kind: type[Config], item: Any) -> str:
    """One readable line from one pydantic error."""
    where = [_printable(str(part)) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, where[:-1])
        where = [*_without_tags(kind, where[:-1]), where[-1]]
        close = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {shown('.'.join(where))}; {hint}"
    where = _without_tags(kind, where)
    if item["type"] == "missing":
        return f"key {shown('.'.join(where))} is missing; add it"
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        wanted = context["expected_tags"].replace("'", "")
        return f"{'.'.join([*where, 'kind'])}: got {shown(context['tag'])}; wanted one of {wanted}"
    if item["type"] == "union_tag_not_found":
        return f"key {shown('.'.join([*where, 'kind']))} is missing; add it"
    message = WANTED.get(item["type"]) or _one_line(item["msg"].removeprefix("Value error, "))
    return f"{'.'.join(where) or 'config'}: got {shown(item['input'])}; {message}"


def _printable(key: str) -> str:
    return shortened(key if key.isprintable() else ascii(key), SHOWN)


def _one_line(text: str) -> str:
    words = shorten_words(" ".join(text.split()))
    return words if words.isprintable() else ascii(words)


def _fields_at(kind: Any, where: list[str]) -> set[str]:
    """Names of the fields of every config class that may stand at `where`."""
    classes = _config_classes(kind)
    for part in where:
        fields = [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        # a part that is no field is the tag of a discriminated union, which chooses one of its classes, or an index
        tagged = [cls for cls in classes if part in _kinds_of(cls)]
        classes = [found for field in fields for found in _config_classes(field)] or tagged or classes
    return {name for cls in classes for name in cls.model_fields}


def _kinds_of(cls: type[Config]) -> tuple[Any, ...]:
    """Values of its key `kind`; none without one."""
    return get_args(cls.model_fields["kind"].annotation) if "kind" in cls.model_fields else ()


def _without_tags(kind: Any, where: list[str]) -> list[str]:
    """The path as the user wrote it: pydantic names the chosen member of a union as if it were a key."""
    classes, kept, is_key = _config_classes(kind), [], False
    for part in where:
        fields = [] if is_key else [cls.model_fields[part].annotation for cls in classes if part in cls.model_fields]
        if fields or not classes or part.isdigit() or is_key:
            kept.append(part)
        is_key = any(get_origin(field) is dict for field in fields)
        if fields:
            classes = [found for field in fields for found in _config_classes(field)]
    return kept


def _config_classes(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict) or get_args(annotation):
        return [found for part in get_args(annotation) for found in _config_classes(part)]
    return []


def _leaves(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    parts = get_args(annotation)
    return {leaf for part in parts for leaf in _leaves(part)} if parts else {annotation}


@cache
def _number_keys(cls: type[Config]) -> frozenset[str]:
    """The keys that take numbers and no truths; found once for a class, for layouts have thousands of parts."""
    kinds = {key: _leaves(field.annotation) for key, field in cls.model_fields.items()}
    return frozenset(key for key, found in kinds.items() if found & {int, float} and bool not in found)


def _truths_as_texts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_truths_as_texts(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else value


def dotted(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Nested mappings as one, with keys like `renderer.base.token_width`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= dotted(value, name) if isinstance(value, dict) else {name: value}
    return flat
