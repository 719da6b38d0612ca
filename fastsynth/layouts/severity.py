"""The severity dial: s times the area, √s times the contrast. 1 is the defect as real ones are drawn.

The size is the sampler's to draw (`LayoutConfig.severity_range`); the contrast is set here, after any renderer.
"""

from dataclasses import replace

import numpy as np

from fastsynth.types import Sample


def size_factor(severity: float) -> float:
    """What the sides of a shape are multiplied by, so that its area grows with the severity."""
    return float(np.sqrt(severity))


def contrast_factor(severity: float) -> float:
    """What the difference to the background is multiplied by."""
    return float(np.sqrt(severity))


def with_severity(sample: Sample) -> Sample:
    """The sample with each instance's difference to the background multiplied; what exceeds the depth is clipped.

    Where instances overlap, the topmost counts. A sample whose severities are all 1 is returned as it is.
    """
    layout = sample.layout
    if all(instance.severity == 1 for instance in layout.instances):
        return sample
    factor = np.ones(layout.size, np.float64)
    for instance in layout.instances:
        x0, y0, x1, y1 = instance.bbox
        factor[y0:y1, x0:x1][instance.mask] = contrast_factor(instance.severity)
    background = layout.background.astype(np.float64)
    drawn = background + factor[..., None] * (sample.image - background)
    image = np.clip(np.rint(drawn), 0, np.iinfo(sample.image.dtype).max).astype(sample.image.dtype)
    return replace(sample, image=image)
