"""Settings of the renderers that need no training: the references every learnt renderer has to beat. No torch."""

from typing import Annotated, Literal

from pydantic import Field

from fastsynth.config import Config

Context = Annotated[float, Field(ge=1.1)]
Share = Annotated[float, Field(ge=0, le=1)]


class CopyPasteConfig(Config):
    """Real training defects, warped to the layout's mask."""

    kind: Literal["copy_paste"] = "copy_paste"
    blend: Literal["light", "poisson"] = "light"
    """light: contrast scaled to the new surroundings, two pixels of fade. poisson: gradients kept, no seam."""
    context: Context = 2.0
    """Side of a crop as a multiple of the defect's longer side."""


class CutPasteConfig(Config):
    """CutPaste (Li et al., CVPR 2021): another place of the same normal image, colour-jittered."""

    kind: Literal["cutpaste"] = "cutpaste"
    jitter: Share = 0.1
    """Largest relative change of brightness and contrast."""
    context: Context = 2.0
    """Side of a crop as a multiple of the defect's longer side."""


class DRAEMConfig(Config):
    """DRAEM (Zavrtanik et al., ICCV 2021): a foreign texture, laid over the surface with random opacity."""

    kind: Literal["draem"] = "draem"
    opacity: tuple[Share, Share] = (0.2, 0.9)
    """Range of the texture's share. The paper's begins at 0, where mask and image disagree."""
    context: Context = 2.0
    """Side of a crop as a multiple of the defect's longer side."""


class NSAConfig(Config):
    """NSA (Schlüter et al., ECCV 2022): a patch of another normal image, Poisson-blended with mixed gradients."""

    kind: Literal["nsa"] = "nsa"
    scale: tuple[Annotated[float, Field(ge=0.25)], Annotated[float, Field(le=4)]] = (0.7, 1.3)
    """Range of the patch's magnification."""
    context: Context = 2.0
    """Side of a crop as a multiple of the defect's longer side."""
