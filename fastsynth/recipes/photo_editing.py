"""Whole pictures as layout files: made from a photo and its layout, rendered by what `photo train` has trained."""

import tempfile
from pathlib import Path

import numpy as np

from fastsynth.files import atomic_write
from fastsynth.images import encode_png
from fastsynth.layouts.layout import find_instance
from fastsynth.layouts.regions import layered
from fastsynth.recipes.editing import Edits, LayoutFile, create_layout
from fastsynth.recipes.photos import load_photo_model, open_pairs
from fastsynth.types import Layout, ReferenceStyle
from generators.layout_config import PhotoConfig
from generators.pairs import PairSource
from generators.photo_renderer import PhotoRenderer

CATEGORY = "photo"


def layout_from_photo(
    path: Path, config: PhotoConfig, stem: str, *, seed: int = 0, edits: Edits | None = None
) -> LayoutFile:
    """A new layout file at `path` from one of the pairs: its photo at the model's scale, its regions as instances.

    seed: of the looks. edits: as in `create_layout`.
    Raises ValueError when there is no pair of this stem, or `path` exists.
    """
    layout = photo_layout(open_pairs(config), stem)
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        atomic_write(photo, encode_png(layout.background))
        return create_layout(path, layout, photo, None, seed, edits=edits)


def photo_layout(source: PairSource, stem: str) -> Layout:
    """One photo of the pairs, at the model's scale, and its regions in layers. Raises ValueError when there is none."""
    pair = source.pair(stem)
    instances = layered(pair.labels, pair.instances, source.class_names)
    return Layout(pair.image, f"{stem}.png", CATEGORY, instances)


def load_photo_renderer(config: PhotoConfig) -> PhotoRenderer:
    """Raises FileNotFoundError when nothing is trained."""
    source = open_pairs(config)

    def find(style: ReferenceStyle) -> tuple[np.ndarray, np.ndarray]:
        layout = photo_layout(source, Path(style.image).stem)
        return layout.background, layout.instance_map() == find_instance(layout, style.instance).id

    return PhotoRenderer(load_photo_model(config), references=find)
