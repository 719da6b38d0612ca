"""The albumentations stage: pipelines from YAML, from a saved file or from Python, applied with one seed per sample.

albumentations sees float32 in [0, 1] in place of 16 bit, which several of its transforms refuse or scale wrongly;
what comes back is again (H, W, C) of the dtype that went in. Masks are always resampled with nearest neighbour.
"""

import copy
import difflib
import inspect
import io
import os
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fastsynth.augment_config import AugmentConfig
from fastsynth.config import read_yaml
from fastsynth.files import atomic_write, read_json
from fastsynth.images import outline, to_uint8
from fastsynth.layouts.crop import ValueRange
from fastsynth.types import check_image

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # albumentations asks the network for its newest version on import

import albumentations as A
from albumentations.core.serialization import SERIALIZABLE_REGISTRY

# The quarter turns and mirrors lose nothing; light and blur stay mild, so that a faint defect survives them.
DEFAULT_TRANSFORMS: tuple[dict[str, Any], ...] = (
    {"name": "D4", "p": 1.0},
    {
        "name": "Affine",
        "rotate": (-15, 15),
        "shear": (-5, 5),
        "border_mode": cv2.BORDER_REFLECT_101,
        "p": 0.3,
    },
    {"name": "RandomBrightnessContrast", "brightness_limit": 0.2, "contrast_limit": 0.2, "p": 0.7},
    {"name": "RandomGamma", "gamma_limit": (75, 135), "p": 0.3},
    {"name": "GaussNoise", "std_range": (0.005, 0.02), "p": 0.2},
    {"name": "GaussianBlur", "sigma_limit": (0.3, 0.8), "blur_limit": 0, "p": 0.1},
)


def build_augmentation(config: AugmentConfig) -> A.Compose:
    """The pipeline that `config` describes.

    Raises ValueError for a transform or argument that albumentations does not have, naming the closest.
    """
    if config.pipeline is not None:
        return load_augmentation(config.pipeline)
    transforms = DEFAULT_TRANSFORMS if config.transforms is None else config.transforms
    return _from_tree({"__class_fullname__": "Compose", "transforms": [_tree(node) for node in transforms]})


def load_augmentation(path: Path) -> A.Compose:
    """A pipeline that `save_augmentation` or `albumentations.save` wrote, .json, .yaml or .yml.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a saved pipeline, too large, or one with unknown transforms or arguments.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such augmentation pipeline")
    saved = read_yaml(path) if _is_yaml(path) else read_json(path)
    try:
        tree = saved["transform"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not an albumentations pipeline; write it with albumentations.save") from error
    return _from_tree(tree)


def save_augmentation(compose: A.Compose, path: Path) -> None:
    """Write `compose` in albumentations' own format, YAML if `path` says so, else JSON."""
    text = io.StringIO()
    A.save(compose, text, data_format="yaml" if _is_yaml(path) else "json")
    atomic_write(path, text.getvalue().encode())


def augment_sample(
    compose: A.Compose, image: np.ndarray, foreground: np.ndarray, *, seed: int, values: ValueRange | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented sample; the same seed gives the same bytes, whatever was augmented before.

    image: (H, W, 1 or 3) uint8 or uint16. foreground: (H, W) bool. The result has the same dtypes and channels.
    values: of a 16-bit picture, what counts as black and as white; None: all 65,536.

    Raises ValueError when the pipeline returns anything but an image (normalised, a tensor, …).
    """
    # `compose.set_random_seed` gives every transform the same seed, so that two flips would always flip together
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    compose.set_mask_interpolation(cv2.INTER_NEAREST)
    deep = image.dtype == np.uint16
    values = values or ValueRange(0, 65535)
    given = (values.to_float(image) + 1) / 2 if deep else image
    result = compose(image=given, mask=foreground.astype(np.uint8))
    augmented = result["image"]
    if not isinstance(augmented, np.ndarray) or augmented.dtype != given.dtype or augmented.ndim != 3:
        raise ValueError(
            f"the augmentation returns {type(augmented).__name__} {getattr(augmented, 'dtype', '')}, "
            f"wanted {given.dtype} (H, W, C); remove Normalize, ToFloat and ToTensorV2, scaling happens later"
        )
    if deep:
        augmented = values.from_float(np.clip(augmented, 0, 1) * 2 - 1, np.dtype(np.uint16))
    check_image(augmented)
    return np.ascontiguousarray(augmented), result["mask"] > 0


def augment_preview(
    compose: A.Compose, samples: Sequence[tuple[np.ndarray, np.ndarray]], *, columns: int, seed: int
) -> list[list[np.ndarray]]:
    """Rows for a contact sheet: per (image, foreground) the original and `columns` augmented versions.

    Every picture is (h, w, 3) uint8 with the foreground outlined; h and w follow the pipeline.
    """
    return [
        [
            outline(to_uint8(image), foreground),
            *(_preview(compose, image, foreground, seed=seed + row * columns + column) for column in range(columns)),
        ]
        for row, (image, foreground) in enumerate(samples)
    ]


def _preview(compose: A.Compose, image: np.ndarray, foreground: np.ndarray, *, seed: int) -> np.ndarray:
    limits = float(image.min()), float(image.max())
    augmented, inside = augment_sample(compose, image, foreground, seed=seed, values=ValueRange.of(image))
    return outline(to_uint8(augmented, limits=limits), inside)


def _tree(node: dict[str, Any]) -> dict[str, Any]:
    """`{name: …, arguments}` of a config in the form albumentations saves."""
    if "name" not in node:
        raise ValueError(f"transform {node} has no name; write {{name: HorizontalFlip, p: 0.5}}")
    tree = {key: value for key, value in node.items() if key != "name"}
    if "transforms" in tree:
        tree["transforms"] = [_tree(child) for child in tree["transforms"]]
    return {"__class_fullname__": node["name"], **tree}


def _from_tree(tree: dict[str, Any]) -> A.Compose:
    checked = _checked(copy.deepcopy(tree))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # albumentations warns and takes defaults where it cannot comply
        try:
            compose = A.from_dict({"transform": checked})
        except (ValueError, TypeError, UserWarning) as error:
            raise ValueError(f"augmentation pipeline: {_one_line(error)}") from error
    if not isinstance(compose, A.Compose):
        raise ValueError(f"augmentation pipeline is a {type(compose).__name__}; wrap it in albumentations.Compose")
    return compose


def _checked(tree: dict[str, Any]) -> dict[str, Any]:
    """The same tree with `strict` and `p` spelled out, once every name in it is known."""
    name = tree.get("__class_fullname__", "")
    if name not in SERIALIZABLE_REGISTRY:
        raise ValueError(f"unknown transform {name!r}; {_closest(name, SERIALIZABLE_REGISTRY)}")
    kind = SERIALIZABLE_REGISTRY[name]
    parameters = inspect.signature(kind.__init__).parameters
    for argument in tree.keys() - {"__class_fullname__", "strict"} - parameters.keys():
        raise ValueError(f"{name} has no argument {argument!r}; {_closest(argument, parameters.keys() - {'self'})}")
    if "p" in parameters:
        tree.setdefault("p", parameters["p"].default)
    if "transforms" in tree:
        tree["transforms"] = [_checked(child) for child in tree["transforms"]]
    elif _takes_strict(kind):
        tree["strict"] = True
    return tree


def _takes_strict(kind: type) -> bool:
    """A transform whose constructor has no schema of its own (RandomRotate90) knows no `strict`."""
    owner = next(base for base in kind.__mro__ if "__init__" in vars(base))
    return "InitSchema" in vars(owner)


def _closest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def _one_line(error: BaseException) -> str:
    """pydantic spreads one problem over four lines, the last an address."""
    lines = [line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
    return "; ".join(lines)


def _is_yaml(path: Path) -> bool:
    return path.suffix in {".yaml", ".yml"}
