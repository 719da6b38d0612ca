"""How bright and how varied defects are: what training leaves too pale is told by the photos, and made up when drawing.

A regression draws the mean of what is likely, and a few hundred steps of an adversary stay near it: pits that are black
here and faint there all come out grey. So after training each class is drawn on sound surfaces, as it will be, and how
bright and how contrasty its instances were is kept with the model, beside what photographed ones are. A drawing then
takes the brightness that has its rank among the photos: the darkest drawing becomes as dark as the darkest pits, so
that styles keep their order. In the training crops less would be found missing: those the model knows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GAINS = 0.5, 2.0
"""What a contrast may be multiplied by: more would make noise of what the model hardly draws."""
RANKS = np.linspace(0.05, 0.95, 10)
"""At which quantiles drawings and photos are compared; beyond the last ones nothing more is added."""


class Tone(NamedTuple):
    """Of a class: quantiles over its instances, drawn and photographed, at RANKS; without any nothing is changed.

    means: brightness of an instance, over its pixels and channels. contrasts: standard deviation of its pixels about
    their mean. hue: photographed less drawn, per channel, about the mean of the three. All of a picture in [-1, 1].
    """

    drawn_means: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    drawn_contrasts: tuple[float, ...] = ()
    contrasts: tuple[float, ...] = ()
    hue: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def of(self, picture: Tensor, inside: Tensor) -> Tensor:
        """(3, H, W) in [-1, 1], changed inside only.

        picture: (3, H, W) in [-1, 1]. inside: (H, W) bool, with at least one pixel.
        """
        if not self.means:
            return picture
        pixels = picture[:, inside]
        mean, contrast = _mean_and_contrast(pixels.numpy())
        brighter = float(np.interp(mean.mean(), self.drawn_means, self.means) - mean.mean())
        wanted = float(np.interp(contrast, self.drawn_contrasts, self.contrasts))
        gain = float(np.clip(wanted / contrast, *GAINS)) if contrast > 0 else 1.0
        old = torch.from_numpy(mean)[:, None].to(pixels)
        kept = picture.clone()
        kept[:, inside] = (old + brighter + pixels.new_tensor(self.hue)[:, None] + gain * (pixels - old)).clamp(-1, 1)
        return kept


def fit_tone(photographed: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> Tone:
    """The tone of a class from its instances' pixels, each (3, P) in [-1, 1]. One of them empty: `Tone()`."""
    if not photographed or not drawn:
        return Tone()
    (means, contrasts), (drawn_means, drawn_contrasts) = (
        [np.array(values) for values in zip(*map(_mean_and_contrast, instances), strict=True)]
        for instances in (photographed, drawn)
    )
    offset = means.mean(0) - drawn_means.mean(0)
    red, green, blue = (offset - offset.mean()).tolist()
    return Tone(
        drawn_means=_quantiles(drawn_means.mean(1)),
        means=_quantiles(means.mean(1)),
        drawn_contrasts=_quantiles(drawn_contrasts),
        contrasts=_quantiles(contrasts),
        hue=(red, green, blue),
    )


def _mean_and_contrast(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Of (3, P): the mean (3,), and the deviation from it, one number for all channels, so that no hue changes."""
    mean = pixels.mean(1)
    return mean, float(np.sqrt(((pixels - mean[:, None]) ** 2).mean()))


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values, RANKS).tolist())
