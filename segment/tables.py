"""Rows of a table of renderers against one another, beside their comparison with the real arm. No torch."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from segment.compare import Arm, Difference, common_seed, difference, judged_metrics


def against_rows(
    arms: Sequence[Arm],
    *,
    compare_with: Sequence[str],
    references: Collection[str],
    rng: np.random.Generator,
    resamples: int = 2000,
) -> list[Difference]:
    """Every row minus the best reference row and minus the rows named in `compare_with`, at equal ratios.

    arms: the segmenters of all rows, without the real arm; each has its `row`. references: names of rows.
    """
    tables: dict[float | None, dict[str, list[Arm]]] = {}
    for arm in arms:
        assert arm.row is not None
        tables.setdefault(arm.ratio, {}).setdefault(arm.row, []).append(arm)
    found: list[Difference] = []
    seed = common_seed(rng)
    for rows in tables.values():
        best = best_reference(rows, references)
        baselines = dict.fromkeys(name for name in (best, *compare_with) if name in rows)
        for baseline in baselines:
            for name, row in rows.items():
                for metric in judged_metrics(row) if name != baseline else ():
                    same = np.random.default_rng(seed)
                    found += difference(row, rows[str(baseline)], metric, rng=same, resamples=resamples)
    return found


def best_reference(rows: Mapping[str, Sequence[Arm]], references: Collection[str]) -> str | None:
    """The reference row with the highest mean mIoU; None without any.

    It is chosen on the test images, which flatters it: to beat it is harder than to beat one chosen beforehand.
    """
    chosen = [name for name in rows if name in references]
    return max(chosen, key=lambda name: np.mean([a.scores.miou(a.threshold) for a in rows[name]]), default=None)
