"""Settings of the FAST renderer and of its training. No torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fastsynth.config import Config
from fastsynth.diffusion.pretrained.config import PretrainedBaseConfig

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class UNetConfig(Config):
    """Shape of a UNet that starts with fresh weights, and of its tokens."""

    block_out_channels: tuple[Positive, ...] = (128, 192)
    """Channels of every level, finest first; each further level halves the side."""
    layers_per_block: Positive = 2
    """Residual blocks of a level."""
    tokens_per_defect: Positive = 4
    """Learnt vectors that stand for a defect type."""
    token_width: Positive = 128
    """Numbers in each of them."""


class BaseConfig(Config):
    """The compact latent diffusion model FAST stands on."""

    autoencoder: Path | None = None
    """Folder of a saved autoencoder; null takes the one that ships with the package."""
    pretrained: Literal["bundled"] | Path | None = "bundled"
    """What the training on the user's data starts from: the base that ships with the package, the folder of another
    one, or null, fresh weights."""
    fresh: UNetConfig = UNetConfig()
    """The UNet where `pretrained` is null."""

    @model_validator(mode="after")
    def _one_origin(self) -> "BaseConfig":
        if self.pretrained is not None and self.fresh != UNetConfig():
            raise ValueError(
                f"fresh shapes a UNet with fresh weights, but pretrained is {self.pretrained}; set pretrained to null"
            )
        return self


class FASTTrainingConfig(Config):
    """One joint phase: UNet, FARM and defect tokens (docs/fast_paper.md, rows 5 and 16)."""

    max_train_steps: Positive = 300
    """Optimizer steps, of which `patience` may save some."""
    batch_size: Positive = 16
    """Crops per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps in which the learning rate rises from 0."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the averaged weights, which are the ones kept."""
    denoising_weight: Annotated[float, Field(ge=0)] = 2.0
    """λ1 of the joint loss."""
    farm_weight: Annotated[float, Field(ge=0)] = 5.0
    """λ2 of the joint loss."""
    foreground_weight: Annotated[float, Field(ge=0)] = 3.0
    """Extra weight of the denoising loss inside the mask."""
    defect_crops: Positive = 3000
    """Augmented views of the training defects, all types alike, that are encoded before training."""
    normal_crops: Positive = 600
    """Views of normal images, with borrowed masks: they teach what comes outside and under a mask."""
    normal_share: Share = 0.2
    """Share of normal crops in a batch."""
    farm_share: Share = 0.0
    """Share of the crops in which FARM rewrites the UNet's input. Sampling with `farm: off` is trained by the others,
    sampling with FARM by these, which cost the others: 0.5 is wanted there, and 0 where it is not used."""
    save_every: Positive = 100
    """Steps between checkpoints."""
    judge_every: Positive = 25
    """Steps between judgements of the validation defects."""
    unet: Literal["frozen", "lora", "full"] = "full"
    """What of the UNet learns: nothing, low-rank corrections (extra `pretrained`), or all; FARM and tokens do."""
    lora_rank: Positive = 16
    """Rank of the corrections with unet lora."""
    patience: Positive | None = 4
    """Stop after this many judgements of the validation defects without a better one; null trains to the end. The
    weights that did best on them are kept either way."""


def _base_kind(section: Any) -> str:
    """A `base` that names no kind is the compact one."""
    return str(section.get("kind", "compact") if isinstance(section, dict) else getattr(section, "kind", "compact"))


def _off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


class FASTConfig(Config):
    """`renderer` section of a run with `kind: fast`."""

    kind: Literal["fast"] = "fast"
    base: Annotated[
        Annotated[BaseConfig, Tag("compact")] | Annotated[PretrainedBaseConfig, Tag("diffusers")],
        Discriminator(_base_kind),
    ] = BaseConfig()
    """The compact base, or with `kind: diffusers` a large pretrained one."""
    training: FASTTrainingConfig = FASTTrainingConfig()
    crop_size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Side of the model's square input in pixels."""
    context: Annotated[float, Field(ge=1.1)] = 2.0
    """Side of a crop as a multiple of the defect's longer side."""
    num_inference_steps: Positive = 10
    """Calls of the UNet for a sample; more than 10 brought nothing that could be measured
    (docs/samplers_magnetic_tile.md)."""
    guidance_scale: Annotated[float, Field(ge=1)] = 1.0
    """Classifier-free guidance: how far to go on from a normal surface (with a pretrained base: from an empty prompt)
    to the defect. Above 1 defects are bolder, and every step costs a second call of the UNet."""
    kernel: Literal["exact", "published"] = "exact"
    """How AIAS takes a step: exact, a draw from the posterior, or published, the sums of the paper, which are too noisy
    for steps over several times (docs/fast_paper.md)."""
    spacing: Literal["logsnr", "uniform"] = "logsnr"
    """Where the steps lie: even in the logarithm of the signal-to-noise ratio, or in time, as published."""
    solver_order: Literal[1, 2] = 2
    """1: one prediction per step, as published. 2: also the one before it, at no further call."""
    farm: Annotated[Literal["input", "output", "off"], BeforeValidator(_off)] = "off"
    """Where FARM acts: on the UNet's input (the authors' code), on the sample after each step (the paper), or nowhere.
    Off, because the defects then look more like real ones, whatever the start (docs/samplers_magnetic_tile.md)."""
    background: Literal["x0_blend", "paste_all", "paste_250_750"] = "x0_blend"
    """How the surroundings of the mask follow the background: blended into every x̂_0, pasted into every sample with
    fresh noise (the paper), or pasted in the middle half of the diffusion time only (the authors' code)."""
    start: Literal["noise", "farm", "exemplar"] = "exemplar"
    """What the trajectory starts from."""
    strength: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the diffusion time that is run when the start is not noise: 0 would be a copy, 1 pure synthesis."""
    feather: Annotated[float, Field(ge=0)] = 2.0
    """Pixels of fading inside the mask's border."""

    @model_validator(mode="after")
    def _trained_for(self) -> Self:
        if self.farm != "off" and self.training.farm_share == 0:
            raise ValueError(
                f"farm is {self.farm}, but with training.farm_share 0 the UNet never learns to read what FARM writes; "
                "set training.farm_share to 0.5, or farm to off"
            )
        return self
