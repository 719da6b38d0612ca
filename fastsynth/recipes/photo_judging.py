"""How good a renderer of whole pictures is, on layouts it was not trained on: distance to photos, and where edits leak.

The baseline needs no network: the training photo whose layout agrees with the held-out one in the most pixels.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastsynth.files import write_json
from fastsynth.quality.image_metrics import KID_NAME, Crops, kid, trunk_features
from fastsynth.quality.truthfulness import leak_ratio
from fastsynth.recipes.evaluating import QUALITY_FILE
from fastsynth.recipes.photos import LOOKS, draw_looks, load_photo_model, open_pairs
from fastsynth.types import sample_seed
from generators.batches import Batch
from generators.layout_config import PhotoConfig
from generators.layout_model import LayoutModel
from generators.pairs import PairSource

BATCH = 8
SMALLEST_INSTANCE = 16
"""Pixels from which on an instance is restyled."""
NAMES = {
    "kid": f"{KID_NAME}, of whole crops, to the held-out photos; mean over the looks",
    "renders": "what the renderer draws for the held-out layouts",
    "nearest": "for each held-out layout the training photo whose layout agrees in the most pixels",
    "training": "as many training photos, whatever their layouts: about what a perfect renderer would get",
    "leak": "one instance gets another style: mean change outside it per mean change inside it",
}
"""Every figure of quality.json in words."""


def evaluate_photos(config: PhotoConfig) -> dict[str, Any]:
    """Measure the trained model on the held-out layouts, write quality.json, return its content.

    Raises FileNotFoundError when nothing is trained; ValueError with fewer than four held-out pairs, or when the model
    knows other classes.
    """
    model, source = load_photo_model(config), open_pairs(config)
    if config.data.held_out < 4:
        raise ValueError(f"data.held_out is {config.data.held_out}; hold at least 4 pairs out to measure a distance")
    unseen = source.samples(len(source.shown), shrink=1)
    nearest, training = nearest_photos(source, unseen)
    features = {"renders": [_features(look) for look in draw_looks(model, unseen, count=LOOKS, seed=config.seed)]}
    features |= {"nearest": [_features(nearest)], "training": [_features(training)]}
    real = _features(unseen.image)
    found: dict[str, Any] = {"pictures": len(unseen.labels), "kid": {}, "names": NAMES}
    for name, looks in features.items():
        distances = [kid(real, look, rng=np.random.default_rng(config.seed)) for look in looks]
        found["kid"][name] = dict(zip(("mean", "low", "high"), np.mean(distances, axis=0).tolist(), strict=True))
    if model.generator.config["style_channels"]:
        found["leak"] = style_leak(model, unseen, seed=config.seed)
    write_json(config.output / QUALITY_FILE, found)
    return found


def style_leak(model: LayoutModel, batch: Batch, *, seed: int) -> float:
    """Mean `leak_ratio` when one instance of every layout gets the look of another seed.

    0 when no instance is large enough, or none changes.
    """
    leaks = []
    for number, (labels, instances) in enumerate(zip(batch.labels, batch.instances, strict=True)):
        own, other = sample_seed(seed, number, 0), sample_seed(seed, number, 1)
        ids, areas = (values.numpy() for values in instances.unique(return_counts=True))
        large = ids[areas >= SMALLEST_INSTANCE]
        if not len(large):
            continue
        chosen = int(np.random.default_rng(own).choice(large))
        style = model.instance_styles(labels, instances, seed=other)[chosen]
        before, after = (
            model.draw(labels, instances, seed=own, styles=given).movedim(0, -1).numpy()
            for given in (None, {chosen: style})
        )
        region = (instances == chosen).numpy()
        if (before != after)[region].any():
            leaks.append(leak_ratio(before, after, region))
    return float(np.mean(leaks)) if leaks else 0.0


def nearest_photos(source: PairSource, wanted: Batch) -> tuple[Tensor, Tensor]:
    """For every layout of `wanted` the photo of the most alike training layout, and as many training photos as they
    come: both (B, 3, H, W). Of all others no picture is kept."""
    total = len(source.training)
    picks = np.linspace(0, total - 1, min(total, len(wanted.labels))).round().astype(int)
    start = 0
    best = torch.full((len(wanted.labels),), -1.0)
    photos, some = torch.zeros_like(wanted.image), []
    for batch in source.middles(shrink=1, batch_size=BATCH):
        agreement = (wanted.labels[:, None] == batch.labels).float().mean(dim=(2, 3))
        value, place = agreement.max(dim=1)
        closer = value > best
        best[closer], photos[closer] = value[closer], batch.image[place[closer]]
        some.append(batch.image[picks[(picks >= start) & (picks < start + len(batch.image))] - start])
        start += len(batch.image)
    return photos, torch.cat(some)


def _features(images: Tensor) -> np.ndarray:
    """(B, D) of whole pictures, (B, 3, H, W) in [-1, 1]."""
    return trunk_features(Crops(images, torch.ones_like(images[:, :1], dtype=torch.bool)))
