"""What a trained model's drawings lack in brightness and contrast, class by class."""

from collections.abc import Iterator

import numpy as np

from generators.batches import CropSource
from generators.encoding import FIRST_DEFECT
from generators.layout_model import LayoutModel
from generators.tones import Tone, fit_tone

CROPS = 40
"""Of each class that are drawn to compare them."""


def fit_tones(model: LayoutModel, source: CropSource) -> tuple[Tone, ...]:
    """By class id: `fit_tone` of a model that fills holes, over up to `CROPS` of each class's training crops.

    A class without crops, as background and object are, gets `Tone()`.
    """
    shown = {int(label) for label in np.unique(source.classes) if label >= FIRST_DEFECT}
    labels = range(len(source.class_names))
    return tuple(fit_tone(_photo_and_drawn(model, source, label)) if label in shown else Tone() for label in labels)


def _photo_and_drawn(model: LayoutModel, source: CropSource, label: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    batch = source.of_class(label, CROPS)
    for number in range(len(batch.labels)):
        one = batch.part(slice(number, number + 1))
        assert one.context is not None
        drawn = model.draw(one.labels[0], one.instances[0], seed=number, context=one.context[0])
        inside = one.labels[0] == label
        yield one.image[0][:, inside].numpy(), one.composite(drawn[None])[0][:, inside].numpy()
