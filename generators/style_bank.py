"""The looks of all training instances, clustered per class after training."""

import numpy as np
import torch
from torch import Tensor

from generators.batches import Source
from generators.encoding import FIRST_DEFECT
from generators.style import StyleBank, StyleEncoder, encode_styles, find_segments, segment_means

BATCH = 8


@torch.no_grad()
def fit_bank(
    encoder: StyleEncoder,
    source: Source,
    *,
    num_centres: int,
    smallest_instance: float,
    seed: int,
    shrink: int,
    ignore: int | None,
) -> StyleBank:
    """K-means per class over the instances that `source` shows, each counting once a crop.

    smallest_instance: share of the crop below which an instance does not count.
    shrink: how much smaller the encoder sees the pictures, see `encode_styles`.

    Raises ValueError when no instance counts.
    """
    vectors, classes = [], []
    for batch in source.every(shrink=1, batch_size=BATCH):
        batch = batch.to(encoder.device)
        segments = find_segments(batch.instances)
        styles = encode_styles(encoder, batch.image, batch.instances, shrink=shrink)
        labels = _label_of(segments.of_pixel, batch.labels, len(segments.areas))
        known = (labels >= FIRST_DEFECT) if batch.hole is not None else (labels != (-1 if ignore is None else ignore))
        known &= segments.areas >= smallest_instance * batch.labels[0].numel()
        vectors.append(segment_means(styles, segments)[known].cpu().numpy())
        classes.append(labels[known].cpu().numpy())
    if not any(map(len, vectors)):
        raise ValueError(f"no instance covers {smallest_instance} of a crop; lower smallest_instance")
    return StyleBank.fit(
        np.concatenate(vectors),
        np.concatenate(classes),
        num_classes=len(source.class_names),
        rng=np.random.default_rng(seed),
        num_centres=num_centres,
        encoder=encoder,
    )


def _label_of(of_pixel: Tensor, labels: Tensor, count: int) -> Tensor:
    """(S,): the class of every segment, of which all pixels have one class."""
    return labels.new_zeros(count).scatter(0, of_pixel.flatten(), labels.flatten())
