"""How bright and how varied defects are: what training leaves too pale is told by the photos, and made up when drawing.

A regression draws the mean of what is likely, and a few hundred steps of an adversary stay near it: the dark core of a
crack comes out grey. So after training each class is drawn in its training crops, and what its brightness and contrast
lack against the photos there is kept with the model.

C channels, H W crop size.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GAINS = 0.5, 2.0
"""What a contrast may be multiplied by: more would make noise of what the model hardly draws."""


class Tone(NamedTuple):
    """gain: of the contrast about an instance's own mean. shift: of that mean, per channel, in [-2, 2]."""

    gain: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def of(self, picture: Tensor, inside: Tensor) -> Tensor:
        """(3, H, W) in [-1, 1], changed inside only.

        picture: (3, H, W) in [-1, 1]. inside: (H, W) bool, with at least one pixel.
        """
        mean = picture[:, inside].mean(1, keepdim=True)
        shift = torch.tensor(self.shift, dtype=picture.dtype)[:, None]
        kept = picture.clone()
        kept[:, inside] = (mean + shift + self.gain * (picture[:, inside] - mean)).clamp(-1, 1)
        return kept


def fit_tone(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Tone:
    """What makes drawn instances of a class as bright and as varied, on average, as photographed ones.

    The contrast is the deviation from each instance's own mean, one number for all channels, so that no hue changes.

    pairs: pixels inside the mask, of a photo and of what was drawn there, each (3, P) in [-1, 1].
    Without any: `Tone()`.
    """
    shifts, wanted, found = [], 0.0, 0.0
    for photo, drawn in pairs:
        means = photo.mean(1, keepdims=True), drawn.mean(1, keepdims=True)
        shifts.append((means[0] - means[1])[:, 0])
        wanted += float(((photo - means[0]) ** 2).sum())
        found += float(((drawn - means[1]) ** 2).sum())
    if not shifts:
        return Tone()
    red, green, blue = np.mean(shifts, axis=0).tolist()
    gain = float(np.clip(np.sqrt(wanted / found), *GAINS)) if found > 0 else 1.0
    return Tone(gain, (red, green, blue))
