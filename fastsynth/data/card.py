"""`README.md` of a store: a data-set card in the form of the Hugging Face hub, made from files alone.

Read are the manifest, store.json, the gate's log and the headers of the pictures; of the run around the store its
config.yaml, environment.json and quality.json, where they are. Equal files give equal bytes: no clock is told.
"""

import json
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import yaml

from fastsynth.config import read_yaml
from fastsynth.data.export.folder import inside
from fastsynth.data.identity import IDENTITY
from fastsynth.data.manifest import REJECTED, SHARDS, maker, read_manifest
from fastsynth.files import read_json

TEMPLATE = Path(__file__).parent / "card.md"
STORED_FILES, EXPORTED_FILES = "*/train/*/*.png", "train/**"
"""Which pictures the hub shows: those of a store, those of its ImageFolder export."""
SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
COLOURS = {0: "grey", 2: "RGB"}
MACHINE = ("python", "platform", "processor", "cores", "memory_gb", "devices", "threads")
HASHES = ("config_sha256", "data_sha256", "model_sha256")
PROCEDURAL = "procedural:"


@dataclass
class Tally:
    """What one pass over the manifest counts.

    kinds: samples per (category, defect). instances: per defect. pictures: per (width, height, depth and colour).
    shapes: instances per kind of mask. masks, sources: different real masks and backgrounds. changed: shares.
    """

    samples: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    pictures: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    renderers: Counter[tuple[str, int]] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    masks: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    changed: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, store: Path, line: Mapping[str, Any]) -> None:
        """Raises FileNotFoundError when the picture is missing, ValueError when it is no PNG."""
        self.samples += 1
        self.kinds[line["category"], line["defect"]] += 1
        self.renderers[maker(line), line["num_inference_steps"]] += 1
        self.sources.add(line["source_image"])
        self.changed.append(line["checks"]["changed_share"])
        self.pictures[_png_header(inside(store, line["image"]))] += 1
        for instance in line["instances"]:
            self.instances[instance["defect"]] += 1
            shape = instance.get("mask_source") or line["mask_source"]
            real = "." in shape and not shape.startswith(PROCEDURAL)
            self.shapes["shape of a real training defect" if real else shape] += 1
            if real:
                self.masks.add(shape)


def make_card(store: Path, *, config: Mapping[str, Any], files: str = STORED_FILES) -> str:
    """The card of `store`. config: the run's configuration as plain values. files: glob of the pictures on the hub.

    Raises FileNotFoundError without a store, ValueError when a file of it is damaged.
    """
    if not (store / IDENTITY).is_file():
        raise FileNotFoundError(f"{store / IDENTITY}: no such file; there is no store yet, generate some samples first")
    identity, run = read_json(store / IDENTITY), store.resolve().parent
    tally = Tally()
    for line in read_manifest(store):
        tally.add(store, line)
    refused = list(_refused(store))
    environment = _optional(run / "environment.json")
    stages = environment.get("stages", {})
    data = config.get("data") or {}
    licence = data.get("license") or "unknown"
    header = {
        "license": licence,
        "pretty_name": f"Synthetic defects: {', '.join(sorted({category for category, _ in tally.kinds}))}",
        "task_categories": ["image-segmentation"],
        "size_categories": [next((name for limit, name in SIZES.items() if tally.samples < limit), "n>1T")],
        "annotations_creators": ["machine-generated"],
        "tags": ["synthetic", "defect-segmentation", *(["medical"] if identity.get("notice") else [])],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
    }
    return _template().render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
        licence=licence,
        exported=files == EXPORTED_FILES,
        source_url=data.get("source_url"),
        identity=identity,
        notice=identity.get("notice"),
        tally=tally,
        median_changed=median(tally.changed) if tally.changed else 0.0,
        refused=len(refused),
        reasons=_by_count(Counter(line["reason"] for line in refused)),
        asked=(config.get("generate") or {}).get("count"),
        copies=_copies(_optional(run / "quality.json")),
        renderer=_renderer_facts(config.get("renderer") or {}),
        hashes={key: identity.get(key) for key in HASHES},
        machine={key: value for key in MACHINE if (value := stages.get("generate", environment).get(key))},
        packages=stages.get("generate", environment).get("packages", {}),
        commit=stages.get("generate", environment).get("commit"),
        commands={name: stages[name]["command"] for name in ("train", "generate", "filter") if name in stages},
    )


def run_values(store: Path) -> dict[str, Any]:
    """What config.yaml of the run around the store says; empty where there is none."""
    path = store.resolve().parent / "config.yaml"
    values = read_yaml(path) if path.is_file() else None
    return values if isinstance(values, dict) else {}


def _png_header(path: Path) -> tuple[int, int, str]:
    """Width, height, "8 bit RGB"."""
    with path.open("rb") as file:
        start = file.read(26)
    if len(start) < 26 or start[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG; run `fastsynth audit`")
    width, height, depth, colour = struct.unpack(">IIBB", start[16:])
    return width, height, f"{depth} bit {COLOURS.get(colour, 'other')}"


def _refused(store: Path) -> Iterator[dict[str, Any]]:
    """The lines of the gate's log, and of the logs of shards that are not merged; every drawing once."""
    seen = set()
    for log in (store / REJECTED / "rejected.jsonl", *sorted((store / SHARDS).glob("*.rejected.jsonl"))):
        for number, raw in enumerate(log.read_bytes().splitlines(keepends=True) if log.is_file() else [], start=1):
            if not raw.endswith(b"\n"):  # its writer was stopped
                continue
            try:
                line = json.loads(raw)
                key = int(line["id"]), int(line["attempt"]), str(line["reason"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"{log}:{number}: not a line of the gate; delete that line") from error
            if key[:2] not in seen:
                seen.add(key[:2])
                yield line


def _renderer_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of the renderer's settings says most; of paths the last name only."""
    if parts := settings.get("parts"):
        mixed = {f"weight of {name}": part["weight"] for name, part in parts.items()}
        of_parts = ((name, _renderer_facts(part["renderer"])) for name, part in parts.items())
        return mixed | {f"{name}: {key}": value for name, found in of_parts for key, value in found.items()}
    base = settings.get("base") or {}
    training = settings.get("training") or {}
    facts = {f"base.{key}": _name(value) for key, value in base.items() if isinstance(value, str | int | float)}
    facts |= {key: settings[key] for key in ("crop_size", "guidance_scale") if settings.get(key) is not None}
    return facts | {"training steps": training["max_train_steps"]} if "max_train_steps" in training else facts


def _name(value: object) -> object:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _copies(quality: Mapping[str, Any]) -> dict[str, float]:
    """Type → share of near-copies of training defects, of the types where it could be measured."""
    types = quality.get("types", {})
    return {name: types[name]["copies"] for name in sorted(types) if "copies" in types[name]}


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _by_count(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Most first; equal ones by name, so that the order of the work does not show."""
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


def _cell(value: object) -> str:
    """For a table: what would end a cell or a line is left out."""
    return " ".join(str(value).replace("|", "/").split())


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": _cell, "by_count": _by_count, "spread": _spread}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _spread(values: Sequence[object] | Iterable[object]) -> str:
    return ", ".join(map(str, values))
