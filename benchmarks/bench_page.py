"""The docs page of a table of renderers: python benchmarks/bench_page.py runs/bench_magnetic_tile

Copies the table's bench.json to benchmarks/results/bench_<name>.json and its sheet to docs/bench_<name>.jpg, by the
name of the folder; `python benchmarks/pages.py` then writes docs/bench_<name>.md.
"""

import sys
from pathlib import Path
from typing import Any

from page_parts import METRICS, ending, measured, per_defect, percents, points, spread, table
from PIL import Image

from fastsynth.files import read_json, write_json
from fastsynth.quality.image_metrics import KIDResult, mean_kid

ROOT = Path(__file__).parent.parent
PREFIX = "bench_"
SCORES = ("miou", "miou_imagewise", "acc", "ap", "pro", "false_alarm")
LOOKS = {
    "inception_score": "inception score",
    "nearest": "nearest",
    "copies": "copies",
    "alignment": "alignment",
    "presence_acc": "found by the real arm",
}
"""Key of quality.json → head of its column."""
SHARES = ("copies", "presence_acc")
PER_TYPE = {
    "miou": "Difference to the real arm in IoU per defect type, in points:",
    "miou_imagewise": "The same with imagewise IoU:",
}


def bench_page(name: str, result: dict[str, Any], remarks: str) -> str:
    """The Markdown page of one table. remarks: Markdown to follow the sheet, may be empty."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        arms.setdefault(_label(row), []).append(row)
    overall = [d for d in result["differences"] if d["metric"] in SCORES and d["defect"] is None]
    lines = [
        f"# The table of renderers: {name.removeprefix(PREFIX).replace('_', ' ')}",
        "",
        f"**{result['verdict']}**",
        "",
        f"![real test defects, and the same masks filled by every row]({name}.jpg)",
        "",
        *([remarks.strip(), ""] if remarks.strip() else []),
        "Every row but the first is real + synthetic. Scores in percent, mean over seeds ± standard deviation, on the",
        "frozen test part. KID (less is nearer to real test defects) and diversity are means over types. Seconds are",
        "per kept sample, refused drawings included. Training and peak memory are the renderer's, the peak that of its",
        "training or of drawing, whichever is higher.",
        *_own_samples(result),
        "",
        *_scores(arms, result["table"]),
        "",
        *_samples(arms, result["table"]),
        "Difference to the real arm in points, with 95 % intervals; bold where the interval does not hold zero:",
        "",
        *_differences([d for d in overall if d["baseline"] == "real"]),
        "",
        *_between_rows([d for d in overall if d["baseline"] != "real"], result["references"]),
        "IoU per defect type:",
        "",
        *per_defect(arms),
        "",
        *(line for metric, title in PER_TYPE.items() for line in _per_type(result["differences"], metric, title=title)),
        *(f"- {row}: {made['verdict']}" for row, made in result["table"].items()),
        *ending(name, result),
    ]
    return "\n".join(lines) + "\n"


def _label(found: dict[str, Any]) -> str:
    ratio = "" if found["ratio"] in (None, 1.0) else f" 1:{found['ratio']:g}"
    return f"{found['row'] or found['arm']}{ratio}"


def _own_samples(result: dict[str, Any]) -> list[str]:
    """What `compare.own_samples` means for the intervals; nothing where all seeds share a store."""
    stores = {name: row.get("samples") for name, row in result["table"].items()}
    counts = sorted(
        {row["samples"] for row in result["rows"] if row.get("samples") not in (None, stores.get(row["row"]))}
    )
    if not counts:
        return []
    many = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return [
        f"Each segmenter learns from {many} samples that no other of its row sees, so the intervals also cover what a",
        "store owes to chance.",
    ]


def _scores(arms: dict[str, list[dict[str, Any]]], made: dict[str, Any]) -> list[str]:
    def cost(rows: list[dict[str, Any]]) -> list[str]:
        row = made.get(rows[0]["row"], {})
        figures = (
            (row.get("quality", {}).get("mean", {}).get("kid"), 3),
            (row.get("quality", {}).get("mean", {}).get("diversity"), 3),
            (row.get("seconds_per_image"), 2),
            (row.get("renderer_minutes"), 1),
            (row.get("renderer_peak_memory_mb"), 0),
        )
        return [spread([] if value is None else [value], digits=digits) for value, digits in figures]

    costs = ["KID", "diversity", "s per image", "training, min", "peak memory, MB"]
    keys = [key for key in measured(arms) if key in SCORES]
    return table(
        ["row", *(METRICS[key] for key in keys), *costs],
        ([label, *(percents(rows, key) for key in keys), *cost(rows)] for label, rows in arms.items()),
    )


def _samples(arms: dict[str, list[dict[str, Any]]], made: dict[str, Any]) -> list[str]:
    """The image metrics, means over the types, and what each of them is. Nothing where none was measured."""
    by_label = {label: made.get(rows[0]["row"], {}).get("quality") for label, rows in arms.items()}
    measured_rows = {label: quality for label, quality in by_label.items() if quality}
    if not measured_rows:
        return []
    names = next(iter(measured_rows.values()))["names"]
    lines = table(
        ["row", "KID", *LOOKS.values()],
        (
            [label, _kid(quality), *(_figure(quality["mean"], key) for key in LOOKS)]
            for label, quality in measured_rows.items()
        ),
    )
    trained = {q["mean"]["kid_training"] for q in measured_rows.values() if "kid_training" in q["mean"]}
    kept = [f"The training defects themselves have a KID of {max(trained):.3f}.", ""] if len(trained) == 1 else []
    heads = {"kid": "KID", **LOOKS}
    meanings = [_meaning(heads[key], names[key]) for key in heads if key != "presence_acc"]
    return ["The samples by themselves, means over the types:", "", *lines, "", *kept, *meanings, ""]


def _meaning(head: str, name: str) -> str:
    return f"- {name}" if name.casefold().startswith(head.casefold()) else f"- {head}: {name}"


def _kid(quality: dict[str, Any]) -> str:
    of_types = [KIDResult(**of_type["kid"]) for of_type in quality["types"].values() if "kid" in of_type]
    if not of_types:
        return "–"
    found = mean_kid(of_types)
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def _figure(mean: dict[str, float], key: str) -> str:
    if key not in mean:
        return "–"
    return f"{100 * mean[key]:.0f} %" if key in SHARES else f"{mean[key]:.2f}"


def _differences(found: list[dict[str, Any]]) -> list[str]:
    cells: dict[str, dict[str, str]] = {}
    for each in found:
        cells.setdefault(_label(each), {})[each["metric"]] = points(each)
    keys = [key for key in SCORES if any(key in row for row in cells.values())]
    return table(
        ["row", *(METRICS[key] for key in keys)],
        ([label, *(row.get(key, "–") for key in keys)] for label, row in cells.items()),
    )


def _between_rows(found: list[dict[str, Any]], references: list[str]) -> list[str]:
    lines = []
    for baseline in dict.fromkeys(each["baseline"] for each in found):
        chosen = ", a reference renderer" if baseline in references else ""
        lines += [f"Difference to {baseline}{chosen}, in points:", ""]
        lines += [*_differences([each for each in found if each["baseline"] == baseline]), ""]
    return lines


def _per_type(differences: list[dict[str, Any]], metric: str, *, title: str) -> list[str]:
    """Nothing where the metric was not measured."""
    found = [d for d in differences if d["baseline"] == "real" and d["defect"] is not None and d["metric"] == metric]
    cells: dict[str, dict[str, str]] = {}
    for each in found:
        cells.setdefault(_label(each), {})[each["defect"]] = points(each)
    defects = list(dict.fromkeys(each["defect"] for each in found))
    lines = table(["row", *defects], ([label, *(row[d] for d in defects)] for label, row in cells.items()))
    return [title, "", *lines, ""] if found else []


def take(folder: Path, root: Path = ROOT) -> Path:
    """Copy a finished table's result and sheet to where the pages are made from; returns the result's path."""
    name = PREFIX + folder.name.removeprefix(PREFIX)
    target = root / "benchmarks" / "results" / f"{name}.json"
    write_json(target, read_json(folder / "bench.json"))
    Image.open(folder / "sheet.png").convert("RGB").save(root / "docs" / f"{name}.jpg", quality=88)
    return target


if __name__ == "__main__":
    for given in sys.argv[1:]:
        print(take(Path(given)))
