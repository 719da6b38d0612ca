"""What every reader hands to the import: a volume that is not read yet, and the marks that belong to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastsynth.data.medical.volume import Record

Loaded = tuple[np.ndarray, Record, np.ndarray | None]
"""(I, J, K) original integers, how they go back, and (I, J, K) integers that mark classes; None without any."""


@dataclass(frozen=True)
class Source:
    """name: path below the source folder, for messages. key: what tells its patient, kept in memory only."""

    name: str
    key: str
    load: Callable[[], Loaded]


def files_below(folder: Path) -> Iterator[Path]:
    """Sorted, without hidden ones. Raises FileNotFoundError when there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder that holds the images")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def check_labels(labels: np.ndarray, name: str) -> np.ndarray:
    """As int32. Raises ValueError unless they are whole numbers of 0 and more."""
    if labels.dtype.kind not in "iufb" or not np.array_equal(labels, np.rint(labels)) or labels.min() < 0:
        raise ValueError(f"{name}: marks must be whole numbers, 0 where there is nothing; save it as a label map")
    return labels.astype(np.int32)
