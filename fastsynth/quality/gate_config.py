"""Settings of the quality gate: one switch and its thresholds per rule. No torch."""

from typing import Annotated, Any

from pydantic import Field

from fastsynth.config import Config
from fastsynth.quality.gate_measures import SEEN_CONTRAST, SEEN_SHARE

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Rule(Config):
    """One rule of the gate."""

    enabled: bool = True
    """Whether samples that break the rule are refused."""


class MaskRule(Rule):
    """Mask empty or too small."""

    min_area: Annotated[int, Field(ge=1)] = 12
    """Pixels; half of the type's smallest training defect, if that is less."""


class ObjectRule(Rule):
    """Off the object."""

    min_inside: Share = 0.8
    """Share of the mask that must lie on the object; a texture that fills the frame is all object."""


class VisibleRule(Rule):
    """No visible defect."""

    min_contrast: Positive = SEEN_CONTRAST
    """Change of a pixel that can be seen, in standard deviations of what the texture does over the same shape."""
    min_share: Share = SEEN_SHARE
    """Share of the mask that must be visible."""
    sure_share: Share = 0.5
    """From this visible share on nothing else is asked."""
    sure_contrast: Positive = 7.5
    """Nor of a change that is so strong in `min_share` of the mask."""
    min_edge: Positive = 2.5
    """All others must show at the mask's border: the step there as a multiple of the source's own."""
    calm_step: Share = 0.08
    """Where the source's own step is larger, on coarse ground, the border says nothing and is not asked."""


class AlignmentRule(Rule):
    """Mask and picture disagree."""

    min_contrast: Positive = SEEN_CONTRAST
    """Change of a pixel that counts, as in `visible`."""

    max_outside: Annotated[float, Field(ge=0)] = 0.05
    """Visibly changed pixels outside the mask, as a share of the mask."""
    max_offset: Positive = 0.7
    """Distance between the centres of the mask and of what is visible in it, in the mask's root-mean-square radii."""


class SeamRule(Rule):
    """A step along the mask's border that real defects do not have; not asked of masks below 64 pixels."""

    max_ratio: Positive = 1.6
    """Step as a multiple of the largest one of a training defect of the same type."""
    ground_ratio: Annotated[float, Field(ge=0)] = 3.0
    """Step as a multiple of the source's own there, if that is more: on coarse ground, as in ultrasound, no border is
    smooth, and of a few training defects the largest step says little."""
    min_step: Share = 0.15
    """Smaller steps never count; a share of the brighter side."""


class CopyRule(Rule):
    """Near-copy of a training defect."""

    max_similarity: Share = 0.85
    """Correlation of the fine detail inside the masks, at the best shift, turn and mirroring."""
    exempt: tuple[str, ...] = ("copy_paste",)
    """Renderers that copy by design, by kind."""


class DuplicateRule(Rule):
    """Duplicate of another sample with a lower id."""

    max_similarity: Share = 0.9
    """Correlation of the fine detail inside the masks."""


class FeatureRule(Rule):
    """Implausible feature distance to the real defects; needs the extra `offline`; the slowest rule."""

    enabled: bool = False
    """Whether samples that break the rule are refused."""
    max_distance: Positive = 3.0
    """Distance to the nearest training defect of the type, in typical distances between training defects."""


class GateConfig(Config):
    """Which samples are refused, and how often a refused one is drawn again."""

    enabled: bool = True
    """Judge every sample before it is stored."""
    attempts: Annotated[int, Field(ge=1, le=1000)] = 8
    """Drawings of one id before it is given up."""
    keep_rejected: bool = True
    """Write refused images and masks into `rejected/`; the reasons are always written."""
    mask: MaskRule = MaskRule()
    object: ObjectRule = ObjectRule()
    visible: VisibleRule = VisibleRule()
    alignment: AlignmentRule = AlignmentRule()
    seam: SeamRule = SeamRule()
    copies: CopyRule = CopyRule()
    duplicates: DuplicateRule = DuplicateRule()
    features: FeatureRule = FeatureRule()

    def rules(self) -> dict[str, dict[str, Any]]:
        """The rules that are on: name → thresholds, as `quality.gate.Gate` takes them."""
        rules = {name: value for name, value in self if isinstance(value, Rule)}
        return {name: rule.model_dump(exclude={"enabled"}) for name, rule in rules.items() if rule.enabled}
