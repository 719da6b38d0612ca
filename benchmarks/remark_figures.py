"""Figures inside remarks: what stands in `{{…}}` in benchmarks/results/<name>.md comes from the committed results.

{{FAST - real | miou}}                    a difference in points, with its interval
{{FAST - real | miou | point}}            without it
{{FAST - real | miou of crack}}           of one defect type
{{FAST | iou of crack}}                   a row's mean over seeds, in percent
{{FAST; CRN | iou of crack}}              from the least of several rows to the most
{{FAST | kid}}                            what the row's samples are by themselves
{{bench_busi_part: FAST - real | miou}}   of another result than the remarks' own
"""

import re
import statistics
from collections.abc import Mapping
from typing import Any

Results = Mapping[str, dict[str, Any]]
WHOLE_PERCENT = ("copies", "presence_acc")
"""Shares that are told without decimals."""


def fill(remarks: str, results: Results, name: str) -> str:
    """The remarks with their figures; those without a file are of result `name`.

    Raises ValueError that names the first `{{…}}` that no result has.
    """

    def told(found: re.Match[str]) -> str:
        try:
            return _figure(found[1].strip(), results, name)
        except (LookupError, ValueError) as error:
            raise ValueError(f"{name}.md: {found[0]}: no such figure in the results ({error}); correct it") from error

    return re.sub(r"\{\{(.+?)\}\}", told, remarks)


def _figure(text: str, results: Results, name: str) -> str:
    if ":" in text:
        name, text = (part.strip() for part in text.split(":", 1))
    rows, wanted, *rest = (part.strip() for part in text.split("|"))
    metric, _, defect = wanted.partition(" of ")
    if " - " in rows:
        row, baseline = rows.split(" - ")
        return _points(_difference(results[name], row, baseline, metric, defect or None), alone=rest == ["point"])
    values = [_value(results[name], row.strip(), metric, defect) for row in rows.split(";")]
    digits = 0 if metric in WHOLE_PERCENT else 1 if defect else 2
    ends = [f"{value:.{digits}f}" for value in (min(values), max(values))]
    return ends[0] if len(values) == 1 else " to ".join(ends)


def _difference(result: dict[str, Any], row: str, baseline: str, metric: str, defect: str | None) -> dict[str, float]:
    """Either way round: a table has row - baseline or its opposite."""
    for found in result["differences"]:
        pair = found.get("row") or found["renderer"], found["baseline"]
        if (found["metric"], found["defect"]) == (metric, defect) and sorted(pair) == sorted((row, baseline)):
            mean, low, high = (found[key] for key in ("mean", "low", "high"))
            same = pair == (row, baseline)
            return {"mean": mean, "low": low, "high": high} if same else {"mean": -mean, "low": -high, "high": -low}
    raise KeyError(f"{row} - {baseline}")


def _value(result: dict[str, Any], row: str, metric: str, defect: str) -> float:
    if defect:
        of_row = [one for one in result["rows"] if (one.get("row") or one["arm"]) == row]
        return 100 * statistics.mean(one["per_defect"][defect][metric] for one in of_row)
    value = float(result["table"][row]["quality"]["mean"][metric])
    return 100 * value if metric in WHOLE_PERCENT else value


def _points(found: dict[str, float], *, alone: bool) -> str:
    mean, low, high = (f"{100 * found[key]:+.1f}".replace("-", "−") for key in ("mean", "low", "high"))
    return mean if alone else f"{mean} ({low} to {high})"
