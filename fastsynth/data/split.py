"""The split, made once: a third of every defect type to learn from, the rest to judge on, and the guard of the rest.

Images that show the same piece form a cluster (`fastsynth.data.duplicates`), and a cluster stays in one part.

A kind is a (category, defect) pair; defect None stands for the normal images.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from pydantic import AfterValidator, Field

from fastsynth.config import Config
from fastsynth.data.datasets import DataSet, Record
from fastsynth.data.duplicates import Cluster, Looks, clusters
from fastsynth.data.groups import check_regex
from fastsynth.data.manifest import is_path
from fastsynth.errors import shown
from fastsynth.files import read_json, sha256_file, write_json
from fastsynth.images import read_image

Part = Literal["train", "val", "test"]
Kind = tuple[str, str | None]

TEST_NORMALS = 0.2
"""Share of a category's normal images that become test images when the tree holds none."""
MOST_OF_ONE = 4
"""One group fills at most 1/4 of a kind's part, if the other groups can fill it."""
MIN_FOR_VAL = 4
"""From this many training images and clusters of a kind on, at least one of them is kept for validation."""


class SplitConfig(Config):
    """How the images are divided."""

    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    """Share of every defect type to learn from, rounded down, at least one image. It includes the validation part."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training images, defects and normals, kept for choosing thresholds and checkpoints."""
    near_duplicates: bool = True
    """Keep pictures of the same piece together even when no groups.json says so."""
    group_regex: Annotated[str, AfterValidator(check_regex)] | None = None
    """Searched in the path of every image below the data root; its first group says which images stay together, like
    (patient\\d+) or ^normal/(\\w+?)_. In place of a groups.json; must fit every image."""


class LeakError(ValueError):
    """A test image was about to be learnt from."""


@dataclass(frozen=True)
class Split:
    """Image paths of the three parts, relative to the data root, sorted.

    sha256: hash of the file's bytes for every image.
    settings: the run's section `split`; empty for a split from elsewhere.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    seed: int
    sha256: dict[str, str]
    settings: dict[str, float | bool | str | None] = field(default_factory=dict)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        parts: dict[Part, tuple[str, ...]] = {"train": self.train, "val": self.val, "test": self.test}
        return {image: part for part, images in parts.items() for image in images}

    def part_of(self, image: str) -> Part:
        """Raises ValueError when the image is in no part."""
        if image not in self._parts:
            raise ValueError(f"{image} is not in the split; it was added later, make a new split in a new run")
        return self._parts[image]

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Split":
        """Raises FileNotFoundError, or ValueError: no split, an image is in two parts or leaves the root."""
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such split; make one with `fastsynth data split`")
        value = read_json(path)
        wanted = {"train": list, "val": list, "test": list, "seed": int, "sha256": dict}
        if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in wanted.items()):
            raise ValueError(f"{path} is not a split; wanted the keys {', '.join(wanted)}. Make it again")
        images = value["train"] + value["val"] + value["test"]
        if not all(isinstance(image, str) for image in images) or sorted(images) != sorted(value["sha256"]):
            raise ValueError(f"{path}: every image must be in exactly one part and have a hash. Make it again")
        if not all(map(is_path, images)):
            image = next(image for image in images if not is_path(image))
            raise ValueError(
                f"{path}: {shown(image)} is not below the data root; wanted relative paths with forward slashes, "
                "without .. . Make it again"
            )
        if not all(isinstance(sha256, str) for sha256 in value["sha256"].values()):
            raise ValueError(f"{path}: every hash must be a text. Make it again")
        settings, known = value.get("settings", {}), SplitConfig.model_fields.keys()
        if not isinstance(settings, dict) or not settings.keys() <= known:
            raise ValueError(f"{path}: settings is {shown(settings)}; wanted {', '.join(known)}. Make it again")
        parts = {part: tuple(value[part]) for part in ("train", "val", "test")}
        return cls(**parts, seed=value["seed"], sha256=value["sha256"], settings=settings)


class LeakGuard:
    """Refuses test images wherever they lie and whatever they are called: by their bytes, and by their looks.

    looks: of the test images. A file whose bytes the split does not know is compared with them: a copy that was saved
    anew, brightened or shifted by a little is one of them. Turned or mirrored copies are not known.

    Raises LeakError when the split has the same bytes on both sides.
    """

    def __init__(self, split: Split, looks: Looks) -> None:
        self._test = {split.sha256[image]: image for image in split.test}
        self._learnt = {split.sha256[image] for image in split.train + split.val}
        self._looks = looks
        self._joins_looks = bool(split.settings.get("near_duplicates", True))
        for image in split.train + split.val:
            if split.sha256[image] in self._test:
                raise _leak(image, f"is the test image {self._test[split.sha256[image]]}")

    def check(self, paths: Iterable[Path]) -> None:
        """For files from anywhere. Raises LeakError that names the first one that is a test image, and that image."""
        for path in paths:
            sha256 = sha256_file(path)
            if sha256 not in self._learnt:
                self._refuse_test(sha256, path, by_looks=self._joins_looks)

    def check_unchanged(self, folder: Path, sha256: Mapping[str, str], *, advice: str, are_test: bool = False) -> None:
        """For files of known content: path below `folder` → its hash. are_test: they may be test images.

        Raises LeakError as `check` does, ValueError that ends with `advice` when a file has changed otherwise.
        """
        for name, wanted in sha256.items():
            found = sha256_file(folder / name)
            if not are_test:
                self._refuse_test(found, folder / name, by_looks=found != wanted)
            if found != wanted:
                raise ValueError(f"{folder / name} has changed; {advice}")

    def _refuse_test(self, sha256: str, path: Path, *, by_looks: bool) -> None:
        if sha256 in self._test:
            raise _leak(path, f"is the test image {self._test[sha256]}")
        if not by_looks:
            return
        try:
            image = read_image(path)
        except ValueError:  # what cannot be decoded cannot be learnt from either
            return
        if (shown := self._looks.like(image)) is not None:
            raise _leak(path, f"shows the same as the test image {shown}")


def _leak(name: Path | str, what: str) -> LeakError:
    return LeakError(f"{name} {what}; only train and val images may be learnt from")


def make_split(
    dataset: DataSet, *, train_fraction: float, val_fraction: float, seed: int, near_duplicates: bool = True
) -> Split:
    """Divide the images; the same images and seed give the same split, whatever order the disk lists them in.

    Of a defect type with n images, floor(n·train_fraction), at least one, go to train and val. Clusters may force
    fewer, and more only when even the smallest cluster is larger. Validation gets no larger share of a type's clusters
    than of its images, and none of fewer than MIN_FOR_VAL: of few pieces, training needs all. Normal images keep the
    part the tree gives them, except that a cluster with a test image is test as a whole; without test normals a fifth
    of them becomes test.

    Raises ValueError: a type with one image or one cluster, no normal image left to learn from, an unreadable image,
    a fraction not in (0, 1).
    """
    for name, fraction in (("train_fraction", train_fraction), ("val_fraction", val_fraction)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} is {fraction}; wanted a share between 0 and 1")
    totals = Counter(_kind(record) for record in dataset.records)
    for kind, count in sorted(_defects_only(totals).items()):
        if count == 1:
            raise ValueError(
                f"{_name(kind, totals)} has 1 image; at least 2 are needed: one to learn from, one to judge on"
            )
    rng = np.random.default_rng(seed)
    hashes = {record.image: sha256_file(dataset.root / record.image) for record in dataset.records}
    together = clusters(dataset, hashes, near_duplicates=near_duplicates)

    learn, test = _divide(together, totals, rng, train_fraction=train_fraction)
    kept = Counter(_kind(record) for cluster in learn for record in cluster)
    pieces = Counter(kind for cluster in learn for kind in {_kind(record) for record in cluster})
    targets = {kind: _val_target(count, pieces[kind], val_fraction) for kind, count in kept.items()}
    most = {kind: math.ceil(count * val_fraction) for kind, count in pieces.items()}
    val, train = _take(learn, targets, kept, rng, share=val_fraction, most=most)
    settings: dict[str, float | bool | str | None] = {
        "train_fraction": train_fraction,
        "val_fraction": val_fraction,
        "near_duplicates": near_duplicates,
    }
    return Split(_images(train), _images(val), _images(test), seed=seed, sha256=hashes, settings=settings)


class Portion(NamedTuple):
    """What one part has of a kind; pieces: clusters, of which there may be fewer than images."""

    images: int
    pieces: int


def portions(dataset: DataSet, split: Split) -> dict[Kind, dict[Part, Portion]]:
    """How many images of how many pieces every part has of each kind, kinds sorted, the normal images last.

    Raises ValueError for an image that is in no part.
    """
    together = clusters(dataset, split.sha256, near_duplicates=bool(split.settings.get("near_duplicates", True)))
    places = [[(_kind(record), split.part_of(record.image)) for record in cluster] for cluster in together]
    images = Counter(place for cluster in places for place in cluster)
    pieces = Counter(place for cluster in places for place in set(cluster))
    kinds = sorted({kind for kind, _ in images}, key=lambda kind: (kind[1] is None, kind[0], str(kind[1])))
    parts = get_args(Part)
    return {kind: {part: Portion(images[kind, part], pieces[kind, part]) for part in parts} for kind in kinds}


def _divide(
    together: Sequence[Cluster], totals: Mapping[Kind, int], rng: np.random.Generator, *, train_fraction: float
) -> tuple[list[Cluster], list[Cluster]]:
    """Clusters to learn from (train and val), and test clusters."""
    fixed, defective, normal = [], [], []
    for cluster in together:
        if any(_is_test_normal(record) for record in cluster):
            fixed.append(cluster)
        elif any(record.defect is not None for record in cluster):
            defective.append(cluster)
        else:
            normal.append(cluster)

    defects = _defects_only(totals)
    targets = {kind: max(1, _floor(count * train_fraction)) for kind, count in defects.items()}
    learn, test = _take(defective, targets, defects, rng, share=train_fraction)
    learnt = {_kind(record) for cluster in learn for record in cluster}
    for kind in sorted(defects.keys() - learnt):
        raise ValueError(
            f"{_name(kind, totals)}: its {defects[kind]} images are tied together by groups or near-duplicates, so "
            "none can be learnt from while others are judged on; add images of other pieces, or correct groups.json"
        )

    tested = {record.category for cluster in fixed for record in cluster if _is_test_normal(record)}
    without = Counter({kind: n for kind, n in totals.items() if kind[1] is None and kind[0] not in tested})
    already = Counter(_kind(record) for cluster in test for record in cluster)
    missing = {kind: max(0, _floor(count * TEST_NORMALS) - already[kind]) for kind, count in without.items()}
    more_test, normal_learn = _take(normal, missing, without - already, rng, share=TEST_NORMALS)
    normals_left = {record.category for cluster in learn + normal_learn for record in cluster if record.defect is None}
    for category in sorted({category for category, _ in totals} - normals_left):
        raise ValueError(
            f"{category}: all its normal images are tied together with test images by groups or near-duplicates, so "
            "none can be learnt from; add normal images of other pieces, or correct groups.json"
        )
    return learn + normal_learn, fixed + test + more_test


def _take(
    together: Sequence[Cluster],
    targets: Mapping[Kind, int],
    totals: Mapping[Kind, int],
    rng: np.random.Generator,
    *,
    share: float,
    most: Mapping[Kind, int] | None = None,
) -> tuple[list[Cluster], list[Cluster]]:
    """Take whole clusters at random until every kind is as near its target as possible, not above; (taken, left).

    A kind that got nothing then gets a cluster, unless that would take all `totals` of a kind: one that takes no more
    of other kinds than their targets, if there is any, and of these the smallest.
    Kinds without a target do not count. most: how many clusters may be taken per kind.
    """
    counts = [Counter(kind for kind in map(_kind, cluster) if kind in targets) for cluster in together]
    order = [int(i) for i in rng.permutation(len(together)) if counts[i]]
    taken: Counter[Kind] = Counter()
    clusters_taken: Counter[Kind] = Counter()
    chosen: set[int] = set()

    def choose(index: int) -> None:
        chosen.add(index)
        taken.update(counts[index])
        clusters_taken.update(counts[index].keys())

    def clusters_allowed(kind: Kind) -> int:
        return len(together) if most is None else most.get(kind, 0) - clusters_taken[kind]

    offered = Counter(kind for count in counts for kind in count.elements())

    def dominates(kind: Kind, n: int) -> bool:
        """Many exposures of one piece teach little: none may fill the part where enough others can."""
        return n > max(1, targets[kind] // MOST_OF_ONE) and offered[kind] - n >= targets[kind]

    def exceeds(index: int, wanted: Kind) -> bool:
        return any(taken[kind] + n > targets[kind] for kind, n in counts[index].items() if kind != wanted)

    # a cluster of several kinds goes by chance: always or never taking them would make the parts differ
    for i in order:
        fits = all(
            taken[kind] + n <= targets[kind] and not dominates(kind, n) and clusters_allowed(kind) > 0
            for kind, n in counts[i].items()
        )
        if len(counts[i]) > 1 and rng.random() < share and fits:
            choose(i)
    for kind in sorted(targets, key=str):
        pure = {i: counts[i][kind] for i in order if set(counts[i]) == {kind}}
        missing = targets[kind] - taken[kind]
        varied = {i: n for i, n in pure.items() if not dominates(kind, n)}
        offer = varied if sum(varied.values()) >= missing else pure
        for i in _best_sum(dict(islice(offer.items(), clusters_allowed(kind))), missing):
            choose(i)
    for kind in sorted(targets, key=str):
        if targets[kind] > 0 and taken[kind] == 0:
            spare = [i for i in order if kind in counts[i] and i not in chosen]
            spare = [i for i in spare if all(taken[k] + n < totals[k] for k, n in counts[i].items())]
            if spare:
                choose(min(spare, key=lambda i: (exceeds(i, kind), len(counts[i]), counts[i].total())))
    return [together[i] for i in sorted(chosen)], [together[i] for i in range(len(together)) if i not in chosen]


def _best_sum(sizes: Mapping[int, int], target: int) -> list[int]:
    """The items whose sizes add up to the largest sum that is at most `target`; the earliest items when several do."""
    last = {0: -1}  # sum → the item that first completed it
    for item, size in sizes.items():
        for total in list(last):
            if total + size <= target and total + size not in last:
                last[total + size] = item
        if target in last:
            break
    total = max(last)
    items = []
    while total > 0:
        items.append(last[total])
        total -= sizes[last[total]]
    return items


def _val_target(count: int, pieces: int, fraction: float) -> int:
    if min(count, pieces) < MIN_FOR_VAL:
        return 0
    return min(count - 1, max(1, round(count * fraction)))


def _floor(value: float) -> int:
    """Rounded down, but 3 · (1/3) is 1 whatever the last bit says."""
    return math.floor(value + 1e-9)


def _kind(record: Record) -> Kind:
    return record.category, record.defect


def _name(kind: Kind, totals: Mapping[Kind, int]) -> str:
    """A defect type as the user knows it: with its category only when there are several."""
    categories = {category for category, _ in totals}
    return f"{kind[0]}/{kind[1]}" if len(categories) > 1 else f"{kind[1]}"


def _defects_only(counts: Mapping[Kind, int]) -> Counter[Kind]:
    return Counter({kind: count for kind, count in counts.items() if kind[1] is not None})


def _is_test_normal(record: Record) -> bool:
    return record.defect is None and record.part == "test"


def _images(clusters: Iterable[Cluster]) -> tuple[str, ...]:
    return tuple(sorted(record.image for cluster in clusters for record in cluster))
