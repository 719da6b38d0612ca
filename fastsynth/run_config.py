"""The whole configuration of a run: one YAML file, one section per stage. No torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from fastsynth.config import MAX_INTEGER, Config
from fastsynth.data.datasets import DataConfig
from fastsynth.data.split import SplitConfig
from fastsynth.diffusion.config import FASTConfig
from fastsynth.layouts.sampler import LayoutConfig
from fastsynth.quality.gate_config import GateConfig
from generators.config import CopyPasteConfig, CutPasteConfig, DRAEMConfig, NSAConfig
from generators.layout_config import CRNConfig, Pix2PixHDConfig
from segment.config import SegmentConfig


def _kind(section: Any) -> str:
    """The renderer's kind; a section that names none is FAST."""
    return str(section.get("kind", "fast") if isinstance(section, dict) else getattr(section, "kind", "fast"))


RendererConfig = Annotated[
    Annotated[FASTConfig, Tag("fast")]
    | Annotated[CRNConfig, Tag("crn")]
    | Annotated[Pix2PixHDConfig, Tag("pix2pixhd")]
    | Annotated[CopyPasteConfig, Tag("copy_paste")]
    | Annotated[CutPasteConfig, Tag("cutpaste")]
    | Annotated[DRAEMConfig, Tag("draem")]
    | Annotated[NSAConfig, Tag("nsa")],
    Discriminator(_kind),
]


class GenerateConfig(Config):
    """How much is rendered."""

    count: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    """Samples in all; defect types take turns."""
    gate: GateConfig = GateConfig()
    """Which samples are refused and drawn again."""


class CompareConfig(Config):
    """The arms of the verdict: real alone, real with synthetic, synthetic alone."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """One segmenter per seed and arm; three is the least that says how far seeds scatter."""
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    """Synthetic defect crops per real one, one arm each."""
    synthetic_only: bool = True
    """Also train on synthetic defects alone."""


class RunConfig(Config):
    """Everything `fastsynth run` needs."""

    output: Path
    """Folder of the run; made when missing, resumed when not."""
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """Of the split, the training, the layouts and the samples; segmenters have their own seeds."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: DataConfig
    split: SplitConfig = SplitConfig()
    layouts: LayoutConfig = LayoutConfig()
    renderer: RendererConfig = FASTConfig()
    generate: GenerateConfig = GenerateConfig()
    segment: SegmentConfig = SegmentConfig()
    compare: CompareConfig = CompareConfig()
