"""What a trained model's drawings lack in brightness and contrast, class by class."""

import numpy as np

from generators.batches import CropSource
from generators.encoding import FIRST_DEFECT
from generators.layout_model import LayoutModel
from generators.tones import Tone, fit_tone

CROPS = 40
"""Of each class that are compared."""


def fit_tones(model: LayoutModel, source: CropSource) -> tuple[Tone, ...]:
    """By class id: `fit_tone` of a model that fills holes, up to `CROPS` photographed defects against as many drawn.

    A class without crops, as background and object are, gets `Tone()`.
    """
    shown = {int(label) for label in np.unique(source.classes) if label >= FIRST_DEFECT}
    labels = range(len(source.class_names))
    return tuple(_tone(model, source, label) if label in shown else Tone() for label in labels)


def _tone(model: LayoutModel, source: CropSource, label: int) -> Tone:
    photos, surfaces = source.of_class(label, CROPS), source.on_normals(label, CROPS)
    photographed = [
        image[:, labels == label].numpy() for image, labels in zip(photos.image, photos.labels, strict=True)
    ]
    drawn = []
    for number in range(len(surfaces.labels)):
        one = surfaces.part(slice(number, number + 1))
        assert one.context is not None
        look = model.draw(one.labels[0], one.instances[0], seed=number, context=one.context[0])
        drawn.append(one.composite(look[None])[0][:, one.labels[0] == label].numpy())
    return fit_tone(photographed, drawn)
