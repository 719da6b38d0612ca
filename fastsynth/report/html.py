"""`report.html` from a run folder: one file, no script, nothing fetched, readable offline in a light or dark browser.

Read: config.yaml, environment.json, split.json, log.jsonl, metrics.json, quality.json, model/training.json, synthetic/,
sheet.png, sheets/* and segment/<arm>/seed-<n>/result.json. What is missing is left out, with a sentence
that says how to get it.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fastsynth.config import read_yaml
from fastsynth.data.store import IDENTITY, MANIFEST, read_manifest
from fastsynth.files import atomic_write, read_json, sha256_file
from fastsynth.report import plots, summary
from fastsynth.report.sizes import SizeLine, size_lines
from fastsynth.report.summary import Row

MIME_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
HASHED_FILES = ("config.yaml", "split.json", f"synthetic/{MANIFEST}", "metrics.json")
"""Files whose SHA-256 identifies the run."""
LOOK_COLUMNS = {
    "kid": "KID to test defects",
    "kid_training": "KID of training defects",
    "diversity": "diversity",
    "inception_score": "inception score",
    "nearest": "nearest training defect",
    "copies": "copies, %",
    "visible": "visible change, %",
    "alignment": "alignment",
    "leak": "leak",
    "invisible": "invisible, %",
    "presence_iou": "presence, IoU",
}
"""Key of quality.json → head of its column, in the order of the columns."""
OF_A_RUN = ("config.yaml", "log.jsonl", "metrics.json", "split.json", "model", "segment", "synthetic", "sheets")
"""A folder with none of these is no run's."""


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from what the run folder holds so far; returns its path.

    Raises:
        FileNotFoundError: there is no such folder, or no run in it.
        ValueError: a file of the run is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder; name a folder that fastsynth run has written")
    if not any((folder / name).exists() for name in OF_A_RUN):
        raise FileNotFoundError(f"{folder}: nothing of a run is here; name a folder that fastsynth run has written")
    path = folder / "report.html"
    atomic_write(path, _template().render(_content(folder)).encode())
    return path


def _content(folder: Path) -> dict[str, Any]:
    """The variables of template.html."""
    metrics = _read_json(folder / "metrics.json")
    environment = _read_json(folder / "environment.json")
    log = _read_lines(folder / "log.jsonl")
    store = folder / "synthetic"
    manifest = list(read_manifest(store)) if (store / MANIFEST).is_file() else []
    rows, differences = metrics.get("rows", []), metrics.get("differences", [])
    funnel = summary.funnel(manifest, _read_lines(store / "rejected" / "rejected.jsonl"))
    config = _read_text(folder / "config.yaml")
    settings = read_yaml(folder / "config.yaml") if config else {}
    asked = settings.get("generate", {}).get("count")
    sizes = _sizes(settings.get("data", {}), _read_json(folder / "split.json"), manifest)
    return {
        "name": folder.resolve().name,
        "created": environment.get("created", "")[:10],
        "verdict": metrics.get("verdict"),
        "tone": summary.verdict_tone(metrics.get("verdict") or ""),
        "facts": [
            *summary.score_facts(rows, differences),
            *summary.funnel_facts(funnel, asked=asked),
            *summary.cost_facts(rows),
        ],
        "overall": summary.overall_scores(rows),
        "per_defect": summary.scores_per_defect(rows),
        "metrics": summary.shown_metrics(rows),
        "rules": {**summary.DEFINITIONS, **{_title(key): rule for key, rule in metrics.get("rules", {}).items()}},
        "differences": [summary.difference_line(row) for row in differences],
        "forest": _forest([row for row in differences if not row.get("defect")]),
        "forest_per_defect": _forest([row for row in differences if row.get("defect")]),
        "segmenter_curves": _segmenter_curves(folder / "segment"),
        "renderer_curves": _renderer_curves(log),
        "trained": summary.training_line(_read_json(folder / "model" / "training.json")),
        "sheets": [{"caption": _caption(path), "uri": _data_uri(path)} for path in _sheets(folder)],
        "funnel": funnel,
        "quality": _read_json(folder / "quality.json"),
        "look_columns": LOOK_COLUMNS,
        "sizes": sizes,
        "size_plots": [
            Markup(plots.size_plot({"real": s.real, "synthetic": s.synthetic}, title=s.defect, unit=s.unit))
            for s in sizes
        ],
        "notice": _read_json(store / IDENTITY).get("notice"),
        "split": summary.split_counts(_read_json(folder / "split.json")),
        "costs": summary.arm_costs(rows),
        "stages": summary.stage_minutes(log),
        "command": metrics.get("command") or environment.get("command"),
        "provenance": _provenance(folder, metrics, environment, run_seed=settings.get("seed")),
        "config": config,
    }


def _sizes(data: Mapping[str, Any], split: Mapping[str, Any], manifest: Sequence[Row]) -> list[SizeLine]:
    """Empty when the data set is not where the run found it: a report outlives its data."""
    if not manifest or not split.get("train") or not Path(data.get("root", "")).is_dir():
        return []
    try:
        return size_lines(
            Path(data["root"]),
            data.get("categories"),
            split["train"],
            manifest,
            follow_links=bool(data.get("follow_links", False)),
        )
    except (ValueError, FileNotFoundError):
        return []


def _provenance(
    folder: Path, metrics: Mapping[str, Any], environment: Mapping[str, Any], *, run_seed: int | None
) -> dict[str, str]:
    """What to compare when two runs differ: label → value, in reading order."""
    seeds = sorted({row["seed"] for row in metrics.get("rows", []) if row.get("seed") is not None})
    machine = {key: environment[key] for key in ("processor", "cores", "memory_gb") if key in environment}
    lines = {
        "run seed": _flat(run_seed),
        "segmenter seeds": ", ".join(map(str, seeds)),
        "data": _flat(metrics.get("data")),
        "commit": metrics.get("commit") or environment.get("commit"),
        "machine": _flat(metrics.get("machine", machine)),
        "system": environment.get("platform"),
        "Python": environment.get("python"),
        **{f"SHA-256 of {name}": sha256_file(folder / name) for name in HASHED_FILES if (folder / name).is_file()},
        "packages": ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()),
    }
    return {label: value for label, value in lines.items() if value}


def _flat(value: Any) -> str:
    """JSON values on one line, for a reader."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_flat(item)}" for key, item in value.items())
    return "" if value is None else str(value)


def _template() -> jinja2.Template:
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": summary.percent, "points": summary.points, "duration": summary.duration}
    return pages.get_template("template.html")


def _forest(differences: Sequence[Row]) -> Markup | None:
    """Those of the differences that are in mIoU."""
    lines = [(summary.difference_label(row), row) for row in differences if row["metric"] == "miou"]
    return Markup(plots.forest(lines, title="difference in mIoU, percentage points")) if lines else None


def _segmenter_curves(folder: Path) -> list[Markup]:
    """One drawing per logged quantity, the arms side by side, from `<arm>/seed-<n>/result.json`."""
    quantities: dict[str, dict[str, list[plots.Points]]] = {}
    for path in sorted(folder.glob("*/seed-*/result.json"), key=_natural):
        for name, positions in summary.curves(read_json(path)["history"], along="iteration").items():
            quantities.setdefault(name, {}).setdefault(path.parents[1].name, []).append(positions)
    return [Markup(plots.curve_plot(arms, title=_words(name), along="iterations")) for name, arms in quantities.items()]


def _renderer_curves(log: Sequence[Row]) -> list[Markup]:
    """One drawing per stage of the log, or part of a hybrid in it, and quantity."""
    stages: dict[str, list[Row]] = {}
    for record in log:
        stage = str(record.get("stage", "training"))
        stages.setdefault(f"{stage} {record['renderer']}" if "renderer" in record else stage, []).append(record)
    return [
        Markup(plots.curve_plot({stage: [positions]}, title=f"{_words(stage)}: {_words(name)}", along="steps"))
        for stage, records in stages.items()
        for name, positions in summary.curves(records, along="step").items()
    ]


def _sheets(folder: Path) -> list[Path]:
    return [
        path
        for path in (folder / "sheet.png", *sorted((folder / "sheets").glob("*"), key=_natural))
        if path.is_file() and path.suffix.lower() in MIME_TYPES
    ]


def _caption(path: Path) -> str:
    return "real beside synthetic, at equal scale" if path.stem == "sheet" else _words(path.stem)


def _data_uri(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{MIME_TYPES[path.suffix.lower()]};base64,{data}"


def _words(name: str) -> str:
    """`val_miou` → `val mIoU`."""
    return " ".join(summary.METRICS.get(word, word) for word in re.split("[_-]", name))


def _title(key: str) -> str:
    """`empty_mask` → `Empty mask`."""
    return _words(key).capitalize()


def _natural(path: Path) -> list[list[str | int]]:
    """Sorts seed-2 before seed-10."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]


def _read_json(path: Path) -> Mapping[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _read_lines(path: Path) -> list[Row]:
    """The JSON lines of a log. A last line without its end is still being written, and left out."""
    lines = _read_text(path).splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds a line that is not JSON ({error}); delete that line") from error
