"""Foreground scores of probability maps at native size, from one histogram pair per image. No torch.

An image is reduced to how many of its foreground and background pixels fall into each probability bin. Sums of
these histograms give every score at every threshold, and a bootstrap over images is a matrix product with weights.

N images, R resamples, T defect types, BINS bins. Weights are (R, N): how often each image counts; all ones for
the test set as it is. Curves run from the strictest threshold to the laxest.

The bins are equally wide in logit, 3 % in odds each: networks push most pixels towards 0 and 1, where bins of
equal width in probability would tie the very pixels whose order pixel AP and per-region overlap (PRO) measure.
A bin's lower edge belongs to it, so counts at an edge equal `probability >= edge` exactly.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from scipy.special import expit, logit, stdtrit

from fastsynth.files import atomic_write

BINS = 1024
LOGIT_LOW, LOGIT_HIGH = -20.0, 12.0
LOGITS = np.linspace(LOGIT_LOW, LOGIT_HIGH, BINS, endpoint=False)
EDGES = expit(LOGITS).astype(np.float32)
"""(BINS,) float32, the lower edges, 0.5 among them. Lower to -20 than up to +12: background is where the pixels are."""
EDGES[0] = 0.0

PRO_LIMIT = 0.3
EMPTY_RULE = (
    "Pixels are summed over the images of a defect type before dividing, so an image with an empty mask adds only its "
    "false positives. Normal images count in AP, PRO and false alarms, not in mIoU, Acc and F1. "
    "A type without any foreground pixel has nothing to miss: a ratio of 0 to 0, its AP and its PRO count as 1."
)
IMAGEWISE_RULE = (
    "Imagewise mIoU divides image by image before averaging over the images of a type, so that no single image can "
    "decide a type by its many pixels."
)
FALSE_ALARM_RULE = "A normal image is a false alarm when at least one of its pixels is predicted as defect."

Metric = Literal["miou", "miou_imagewise", "acc", "f1", "ap", "pro", "false_alarm"]


@dataclass(frozen=True, eq=False)
class ImageScore:
    """What is kept of one test image.

    defect: its type, None for a normal image.
    group: images of one group show the same object and are resampled together.
    positives, negatives: (BINS,) int64, foreground and background pixels per probability bin.
    region_shares: (BINS,) float64, the share of an 8-connected foreground region in every bin, summed over regions.
    """

    name: str
    defect: str | None
    group: str
    positives: np.ndarray
    negatives: np.ndarray
    region_shares: np.ndarray


def score_image(
    probability: np.ndarray, foreground: np.ndarray, *, name: str, defect: str | None, group: str | None = None
) -> ImageScore:
    """Count the pixels of one image.

    probability: (H, W) float32 in [0, 1]. foreground: (H, W) bool. defect: None for a normal image.
    group: by default the image is a group of its own.

    Raises ValueError when the arrays do not fit each other or their ranges, or a normal image has a foreground.
    """
    if probability.shape != foreground.shape or foreground.dtype != bool or foreground.ndim != 2:
        raise ValueError(
            f"{name}: probability is {probability.shape}, foreground is {foreground.dtype} {foreground.shape}; "
            "pass an (H, W) probability at native size and an (H, W) bool foreground"
        )
    if not (probability.min() >= 0 and probability.max() <= 1):  # also false for NaN
        raise ValueError(f"{name}: probabilities leave [0, 1] or are NaN; pass the sigmoid of the logits")
    if defect is None and foreground.any():
        raise ValueError(f"{name}: a normal image has {foreground.sum()} foreground pixels; name its defect type")
    bins = np.searchsorted(EDGES, probability.astype(np.float32).ravel(), side="right") - 1
    count, labels = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    inside = labels.ravel() > 0
    positives = np.bincount(bins[inside], minlength=BINS)
    weights = 1 / np.bincount(labels.ravel(), minlength=count)[labels.ravel()[inside]]
    return ImageScore(
        name=name,
        defect=defect,
        group=name if group is None else group,
        positives=positives,
        negatives=np.bincount(bins[~inside], minlength=BINS),
        region_shares=np.bincount(bins[inside], weights=weights, minlength=BINS),
    )


class Scores:
    """Scores of one segmenter on a test set. All are fractions of 1, foreground only, means over defect types.

    With TP, FP, FN summed over the images of a type: IoU = TP/(TP+FP+FN), Acc = TP/(TP+FN), F1 = 2TP/(2TP+FP+FN).
    Imagewise mIoU is the mean of the images' own IoU, over the images of a type.
    AP and PRO of a type rank the pixels of its images together with those of all normal images.
    A threshold is rounded to the nearest bin edge; `chosen_threshold` returns one.

    Raises ValueError without a defect image, or when two images have one name.
    """

    def __init__(self, images: Sequence[ImageScore]) -> None:
        self.images = tuple(images)
        self.names = tuple(image.name for image in images)
        if len(set(self.names)) < len(images):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"image {repeated[0]!r} is scored more than once; score every test image once")
        self.defects = tuple(sorted({image.defect for image in images if image.defect is not None}))
        if not self.defects:
            raise ValueError(f"none of {len(images)} images shows a defect; add defect images to the test set")
        self.normal = np.array([image.defect is None for image in images])
        self._members = [np.array([image.defect == defect for image in images]) for defect in self.defects]

    def miou(self, threshold: float) -> float:
        return float(self.values("miou", threshold).mean())

    def miou_imagewise(self, threshold: float) -> float:
        return float(self.values("miou_imagewise", threshold).mean())

    def acc(self, threshold: float) -> float:
        """Foreground recall."""
        return float(self.values("acc", threshold).mean())

    def f1(self, threshold: float) -> float:
        return float(self.values("f1", threshold).mean())

    def ap(self) -> float:
        """Pixel average precision: Σ (R_k - R_{k-1}) P_k over thresholds, no interpolation."""
        return float(self._average_precision(self._once).mean())

    def pro(self, limit: float = PRO_LIMIT) -> float:
        """Mean covered share of the regions, integrated over the false-positive rate up to `limit`, over `limit`."""
        return float(self._region_overlap(self._once, limit).mean())

    def false_alarm(self, threshold: float) -> float | None:
        """Share of normal images with at least one predicted pixel; None when there are no normal images."""
        return float(self.values("false_alarm", threshold).mean()) if self.normal.any() else None

    def false_alarm_pixels(self, threshold: float) -> float | None:
        """Share of the pixels of normal images that are predicted; None when there are no normal images."""
        _, fp, _ = self._counts(threshold)
        return float(fp[self.normal].sum() / self._fp[self.normal, -1].sum()) if self.normal.any() else None

    def per_defect(self, threshold: float) -> dict[str, dict[str, float]]:
        """{defect: {iou, iou_imagewise, acc, f1, ap, pro, images}}."""
        metrics: tuple[Metric, ...] = ("miou", "miou_imagewise", "acc", "f1", "ap", "pro")
        columns = {metric.removeprefix("m"): self.values(metric, threshold)[0] for metric in metrics}
        return {
            defect: {name: float(column[t]) for name, column in columns.items()}
            | {"images": int(self._members[t].sum())}
            for t, defect in enumerate(self.defects)
        }

    def per_image(self, threshold: float) -> list[dict[str, float]]:
        """{iou, acc} of every image by itself, in their order; 0 of 0 is 1."""
        tp, fp, fn = self._counts(threshold)
        iou, acc = _ratio(tp, tp + fp + fn), _ratio(tp, tp + fn)
        return [{"iou": float(i), "acc": float(a)} for i, a in zip(iou, acc, strict=True)]

    def chosen_threshold(self) -> float:
        """Of the bin edges whose mIoU cannot be told from the highest, the nearest to 0.5. Only for validation images.

        Cannot be told: zero is in the 95 % interval of the difference, over groups. What is trained to be a
        probability needs a reason to be cut elsewhere, and the best edge of a few images is largely chance. The
        variance of a type's Σ TP / Σ U with U = TP + FP + FN is Σ_g (TP_g - IoU U_g)² / (Σ U)² · n / (n - 1) over its n
        groups, the infinitesimal jackknife (Efron 1982). A single group shows no variance, so its type has no say.
        """
        ious, influences, degrees = [], [], []
        for rows in self._members:
            _, group_of = np.unique([self.images[n].group for n in np.flatnonzero(rows)], return_inverse=True)
            in_group = np.arange(1 + group_of.max())[:, None] == group_of  # (n, images)
            tp, union = in_group @ self._tp[rows], in_group @ (self._fp[rows] + self._tp[rows][:, -1:])
            if len(tp) > 1:
                iou = _ratio(tp.sum(axis=0), union.sum(axis=0))
                unbiased = np.sqrt(len(tp) / (len(tp) - 1))
                ious.append(iou[::-1])
                influences.append(unbiased * ((tp - iou * union) / np.maximum(union.sum(axis=0), 1.0))[:, ::-1])
                degrees.append(len(tp) - 1)
        if not ious:
            return 0.5
        miou = np.mean(ious, axis=0)
        best = 1 + int(np.argmax(miou[1:]))  # edge 0 is probability 0: no threshold
        variances = np.stack([((i - i[:, [best]]) ** 2).sum(axis=0) for i in influences]) / len(ious) ** 2
        margin = t_quantile(variances, degrees) * np.sqrt(variances.sum(axis=0))
        as_good = 1 + np.flatnonzero((miou[best] - miou <= margin + 1e-12)[1:])
        return float(EDGES[as_good[np.argmin(np.abs(LOGITS[as_good]))]])

    def values(self, metric: Metric, threshold: float, weights: np.ndarray | None = None) -> np.ndarray:
        """The metric on R weighted copies of the test set.

        weights: (R, N), not negative; by default one row of ones.
        Returns (R, T) float64, a column per type in the order of `defects`; (R, 1) for false_alarm.
        """
        weights = self._once if weights is None else weights.astype(np.float64)
        if metric == "ap":
            return self._average_precision(weights)
        if metric == "pro":
            return self._region_overlap(weights, PRO_LIMIT)
        tp, fp, fn = self._counts(threshold)
        if metric == "false_alarm":
            return _ratio(weights @ (self.normal & (fp > 0)), weights @ self.normal)[:, None]
        over_types = np.stack(self._members, axis=1)  # (N, T)
        if metric == "miou_imagewise":
            return _ratio(weights @ (_ratio(tp, tp + fp + fn)[:, None] * over_types), weights @ over_types)
        tp, fp, fn = (weights @ (count[:, None] * over_types) for count in (tp, fp, fn))
        match metric:
            case "miou":
                return _ratio(tp, tp + fp + fn)
            case "acc":
                return _ratio(tp, tp + fn)
            case "f1":
                return _ratio(2 * tp, 2 * tp + fp + fn)

    def _counts(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True positives, false positives and false negatives of every image, three (N,)."""
        at = BINS - 1 - _edge(threshold)
        return self._tp[:, at], self._fp[:, at], self._tp[:, -1] - self._tp[:, at]

    def _average_precision(self, weights: np.ndarray) -> np.ndarray:
        fp_normal = weights[:, self.normal] @ self._fp[self.normal]
        columns = []
        for rows in self._members:
            tp = weights[:, rows] @ self._tp[rows]
            fp = weights[:, rows] @ self._fp[rows] + fp_normal
            precision = _ratio(tp, tp + fp)
            gained = (np.diff(tp, axis=1, prepend=0.0) * precision).sum(axis=1)
            columns.append(_ratio(gained, tp[:, -1]))
        return np.stack(columns, axis=1)

    def _region_overlap(self, weights: np.ndarray, limit: float) -> np.ndarray:
        fp_normal = weights[:, self.normal] @ self._fp[self.normal]
        columns = []
        for rows in self._members:
            fp = weights[:, rows] @ self._fp[rows] + fp_normal
            covered = weights[:, rows] @ self._covered[rows]
            regions = covered[:, -1:]  # the laxest threshold covers every region
            area = _area(_ratio(fp, fp[:, -1:]), _ratio(covered, regions), limit)
            columns.append(np.where(regions[:, 0] > 0, area / limit, 1.0))
        return np.stack(columns, axis=1)

    @cached_property
    def _once(self) -> np.ndarray:
        return np.ones((1, len(self.images)))

    @cached_property
    def _tp(self) -> np.ndarray:
        """(N, BINS) float64: foreground pixels at or above each edge, strictest first."""
        return _at_or_above(np.stack([image.positives for image in self.images]))

    @cached_property
    def _fp(self) -> np.ndarray:
        """(N, BINS) float64: background pixels at or above each edge, strictest first."""
        return _at_or_above(np.stack([image.negatives for image in self.images]))

    @cached_property
    def _covered(self) -> np.ndarray:
        """(N, BINS) float64: covered shares of the image's regions, summed over the regions."""
        return _at_or_above(np.stack([image.region_shares for image in self.images]))

    def save(self, path: Path) -> None:
        """Plain arrays in one .npz, atomically; the same scores give the same bytes."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(self.names),
            defects=np.array([image.defect or "" for image in self.images]),
            groups=np.array([image.group for image in self.images]),
            positives=np.stack([image.positives for image in self.images]),
            negatives=np.stack([image.negatives for image in self.images]),
            region_shares=np.stack([image.region_shares for image in self.images]),
        )
        atomic_write(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Scores":
        """Raises ValueError that names the file when it was not written by `save`."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            if arrays["positives"].shape[1] != BINS:
                raise ValueError(f"{arrays['positives'].shape[1]} bins, wanted {BINS}")
            keys = ("names", "defects", "groups", "positives", "negatives", "region_shares")
            rows = list(zip(*(arrays[key] for key in keys), strict=True))
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} does not hold scores ({error}); evaluate the segmenter again") from error
        return cls(
            [
                ImageScore(str(name), str(defect) or None, str(group), *histograms)
                for name, defect, group, *histograms in rows
            ]
        )


def _edge(threshold: float) -> int:
    """Index of the bin edge nearest in logit."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; choose one between 0 and 1, both excluded")
    return int(np.argmin(np.abs(LOGITS - logit(threshold))))


def _at_or_above(histograms: np.ndarray) -> np.ndarray:
    return np.cumsum(histograms[:, ::-1], axis=1, dtype=np.float64)


def t_quantile(variances: np.ndarray, degrees: Sequence[int]) -> np.ndarray:
    """Student's t at 97.5 % for a sum of variances (S, …) that are estimated from few things. Returns (…).

    ν = (Σ v)² / Σ (v² / degree), the degrees of freedom of the sum (Satterthwaite 1946): few where a source that was
    seen few times dominates. A source seen once has no measurable variance and does not count.
    """
    total = variances.sum(axis=0)
    spread = sum(v**2 / max(degree, 1) for v, degree in zip(variances, degrees, strict=True))
    freedom = np.divide(total**2, spread, out=np.full(np.shape(total), np.inf), where=spread > 0)
    quantile: np.ndarray = stdtrit(freedom, 0.975)
    return quantile


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0/0 = 1 (see EMPTY_RULE)."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.ones(part.shape), where=whole > 0)


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Area under the polyline (0, 0), (x_1, y_1), … from 0 to `limit`: x, y (R, K), x rising to 1. Returns (R,)."""
    x0 = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
    y0 = np.concatenate([np.zeros_like(y[:, :1]), y[:, :-1]], axis=1)
    step = x - x0
    inside = np.clip(_ratio(limit - x0, step), 0.0, 1.0)  # share of each segment left of the limit
    return (inside * step * (y0 + inside * (y - y0) / 2)).sum(axis=1)
