"""The whole configuration of a run: one YAML file, one section per stage. No torch."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fastsynth.config import MAX_INTEGER, Config
from fastsynth.data.datasets import DataConfig
from fastsynth.data.split import SplitConfig
from fastsynth.diffusion.config import FASTConfig
from fastsynth.errors import shown
from fastsynth.layouts.sampler import LayoutConfig
from fastsynth.quality.gate_config import GateConfig
from generators.config import CopyPasteConfig, CutPasteConfig, DRAEMConfig, NSAConfig
from generators.layout_config import CRNConfig, Pix2PixHDConfig
from segment.config import SegmentConfig


def _kind(section: Any) -> str:
    """The renderer's kind; a section that names none is FAST."""
    return str(section.get("kind", "fast") if isinstance(section, dict) else getattr(section, "kind", "fast"))


SingleConfig = FASTConfig | CRNConfig | Pix2PixHDConfig | CopyPasteConfig | CutPasteConfig | DRAEMConfig | NSAConfig
Single = (
    Annotated[FASTConfig, Tag("fast")]
    | Annotated[CRNConfig, Tag("crn")]
    | Annotated[Pix2PixHDConfig, Tag("pix2pixhd")]
    | Annotated[CopyPasteConfig, Tag("copy_paste")]
    | Annotated[CutPasteConfig, Tag("cutpaste")]
    | Annotated[DRAEMConfig, Tag("draem")]
    | Annotated[NSAConfig, Tag("nsa")]
)
PART_NAME = re.compile(r"[\w-]([\w -]{0,62}[\w-])?")


class HybridPart(Config):
    """One renderer of a mix."""

    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Its share of the samples is this over the sum of all weights."""
    renderer: Annotated[Single, Discriminator(_kind)]
    """Any but a hybrid."""

    @field_validator("renderer", mode="before")
    @classmethod
    def _refuse_hybrid(cls, value: Any) -> Any:
        if _kind(value) == "hybrid":
            raise ValueError("a hybrid cannot be part of a hybrid; list its parts beside the others")
        return value


class HybridConfig(Config):
    """A mix of renderers: every sample is drawn by one of them."""

    kind: Literal["hybrid"] = "hybrid"
    parts: Annotated[dict[str, HybridPart], Field(min_length=2)]
    """Name → renderer and weight. Names stand in the manifest, and are folders below `model/`."""

    @field_validator("parts")
    @classmethod
    def _refuse_names(cls, parts: dict[str, HybridPart]) -> dict[str, HybridPart]:
        folders: dict[str, str] = {}
        for name in parts:
            if not PART_NAME.fullmatch(name):
                raise ValueError(
                    f"a part is called {shown(name)}; its name is a folder's: letters, digits, _, - and inner spaces, "
                    "64 at most"
                )
            if (other := folders.setdefault(name.casefold(), name)) != name:
                raise ValueError(f"parts {other} and {name} differ in case alone, which not every disk can tell")
        return parts

    @property
    def context(self) -> float:
        """The widest of the parts: what must be known around a defect."""
        return max(part.renderer.context for part in self.parts.values())

    @property
    def num_inference_steps(self) -> int:
        """Of the part that takes most; 0 when none has a denoiser."""
        return max(getattr(part.renderer, "num_inference_steps", 0) for part in self.parts.values())


RendererConfig = Annotated[Single | Annotated[HybridConfig, Tag("hybrid")], Discriminator(_kind)]


def singles(renderer: SingleConfig | HybridConfig) -> list[SingleConfig]:
    """The renderer itself, or those that a hybrid mixes."""
    return [part.renderer for part in renderer.parts.values()] if isinstance(renderer, HybridConfig) else [renderer]


def renderer_name(renderer: SingleConfig | HybridConfig) -> str:
    """For tables: its kind, of a hybrid with parts and weights, as in `hybrid (FAST 2, pasted 1)`."""
    if not isinstance(renderer, HybridConfig):
        return renderer.kind
    return f"hybrid ({', '.join(f'{name} {part.weight:g}' for name, part in sorted(renderer.parts.items()))})"


class GenerateConfig(Config):
    """How much is rendered."""

    count: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    """Samples in all; defect types take turns."""
    gate: GateConfig = GateConfig()
    """Which samples are refused and drawn again."""


Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class CompareConfig(Config):
    """The arms of the verdict: real alone, real with synthetic, synthetic alone."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """One segmenter per seed and arm; three is the least that says how far seeds scatter."""
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    """Synthetic defect crops per real one, one arm each."""
    synthetic_only: bool = True
    """Also train on synthetic defects alone."""
    own_samples: bool = False
    """Every seed learns from samples of its own, an equal part of the store, so that intervals also cover what one
    store owes to chance: a verdict on the renderer. false: all learn from the whole store, a verdict on that store."""
    min_presence: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Samples are left out of whose mask the real arm's first segmenter finds less than this share, at most half of a
    type: what nobody sees teaches to see defects where there are none. 0: none is left out."""

    @model_validator(mode="after")
    def _arms_differ(self) -> Self:
        for name, values in {"seeds": self.seeds, "ratios": self.ratios}.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one of them twice; name each once")
        if not self.ratios and not self.synthetic_only:
            raise ValueError("no arm has synthetic images; give a ratio, or set synthetic_only to true")
        return self


class RunConfig(Config):
    """Everything `fastsynth run` needs."""

    output: Path
    """Folder of the run; made when missing, resumed when not."""
    seed: Seed = 0
    """Of the split, the training, the layouts and the samples; segmenters have their own seeds."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What it runs on; auto takes a GPU where there is one."""
    data: DataConfig
    split: SplitConfig = SplitConfig()
    layouts: LayoutConfig = LayoutConfig()
    renderer: RendererConfig = FASTConfig()
    """What draws the defects; `kind` names it."""
    generate: GenerateConfig = GenerateConfig()
    segment: SegmentConfig = SegmentConfig()
    compare: CompareConfig = CompareConfig()
