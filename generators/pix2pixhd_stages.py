"""pix2pixHD from the global generator outwards: every further stage adds an enhancer (arXiv 1711.11585)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from generators.image_pool import ImagePool
from generators.judges import Discriminator, PatchJudge, SegmenterJudge, grow_patches, load_discriminator
from generators.layout_model import LayoutModel, StyleKind
from generators.layout_warp import Warp
from generators.losses import Adversary, LayerWeights
from generators.perceptual import PIX2PIXHD_WEIGHTS, TrunkKind, build_trunk
from generators.pix2pixhd import Pix2PixHDGenerator
from generators.pix2pixhd_training import Pix2PixHDTask, StyledGenerator
from generators.segmenter_discriminator import SegmenterDiscriminator
from generators.stages import Stages
from generators.style import StyleEncoder
from generators.style_bank import fit_bank


@dataclass(frozen=True)
class Design:
    """What the networks look like. generator: arguments of `Pix2PixHDGenerator` other than channels and enhancers; the
    style encoder enlarges its maps as the generator does.

    The rest: see `Pix2PixHDNetworkConfig` and `Pix2PixHDTrainingConfig`.
    """

    generator: Mapping[str, Any]
    style: StyleKind
    style_channels: int
    encoder_width: int
    encoder_downsamples: int
    discriminator: Literal["patch", "segmenter"]
    discriminator_width: int
    num_scales: int
    spectral_norm: bool


@dataclass
class Networks:
    """generator, encoder and discriminator of a stage."""

    generator: Pix2PixHDGenerator
    encoder: StyleEncoder | None
    discriminator: Discriminator

    @classmethod
    def new(cls, design: Design, *, num_classes: int, context_channels: int) -> "Networks":
        """Of the first stage, with fresh weights."""
        styles = 0 if design.style == "none" else design.style_channels
        generator = Pix2PixHDGenerator(
            num_classes, style_channels=styles, context_channels=context_channels, **design.generator
        )
        encoder = None
        if design.style == "encoder":
            encoder = StyleEncoder(
                design.style_channels,
                width=design.encoder_width,
                num_downsamples=design.encoder_downsamples,
                upsampling=generator.config["upsampling"],
            )
        if design.discriminator == "segmenter":
            return cls(generator, encoder, SegmenterDiscriminator(num_classes))
        patches = grow_patches(
            None,
            in_channels=num_classes + int(generator.config["edges"]) + 3,
            width=design.discriminator_width,
            num_scales=design.num_scales,
            spectral_norm=design.spectral_norm,
        )
        return cls(generator, encoder, patches)

    def grown(self) -> "Networks":
        """Of the next stage: one more enhancer, one more size for patch discriminators; the rest keeps its weights."""
        judged = self.discriminator
        if not isinstance(judged, SegmenterDiscriminator):
            config = judged.config
            judged = grow_patches(
                judged,
                in_channels=int(config["in_channels"]),
                width=int(config["width"]),
                num_scales=int(config["num_scales"]) + 1,
                spectral_norm=bool(config["spectral_norm"]),
            )
        return Networks(self.generator.grow(), self.encoder, judged)

    @property
    def parts(self) -> dict[str, Any]:
        """By the name of the folder each is saved in."""
        found = {"generator": self.generator, "encoder": self.encoder, "discriminator": self.discriminator}
        return {name: part for name, part in found.items() if part is not None}


def train_pix2pixhd(
    stages: Stages,
    design: Design,
    *,
    num_centres: int,
    smallest_instance: float,
    trunk: TrunkKind,
    calibration_steps: int,
    warp: Warp,
    learning_rate: float,
    discriminator_learning_rate: float,
    perceptual_weight: float,
    freeze_steps: int,
    adversary: Adversary,
    feature_weight: float,
    label_mix_weight: float,
    noise_draws: int,
    pool_size: int,
) -> LayoutModel:
    """Train all stages, or go on with them, then cluster the styles. See `Pix2PixHDTrainingConfig`."""
    source = stages.source
    networks: Networks | None = None
    layer_weights: list[float] = []
    for stage in range(len(stages.steps)):
        if stages.finished(stage):
            networks, layer_weights = _load(stages, stage, design), stages.recall(stage)["layer_weights"]
            continue
        with torch.random.fork_rng():
            torch.manual_seed(stages.seed(stage))
            if networks is None:
                networks = Networks.new(
                    design, num_classes=len(source.class_names), context_channels=stages.context_channels
                )
            else:
                networks = networks.grown()
        eyes = build_trunk(trunk, recipe="pix2pixhd")
        judge: PatchJudge | SegmenterJudge = SegmenterJudge(label_mix_weight=label_mix_weight)
        if design.discriminator == "patch":
            pool = ImagePool(pool_size, generator=torch.Generator().manual_seed(stages.seed(stage)))
            judge = PatchJudge(adversary=adversary, feature_weight=feature_weight, pool=pool)
        task = Pix2PixHDTask(
            StyledGenerator(networks.generator, networks.encoder, style_shrink=2**stage),
            networks.discriminator,
            judge,
            eyes,
            _layer_weights(trunk, eyes.num_layers),
            calibration_steps=0 if trunk == "vgg19" else calibration_steps,
            learning_rate=learning_rate,
            discriminator_learning_rate=discriminator_learning_rate,
            perceptual_weight=perceptual_weight,
            freeze_steps=freeze_steps,
            frozen=_make_trainable(networks, stage),
            noise_channels=design.style_channels if design.style == "noise" else 0,
            noise_draws=noise_draws,
            ignore=stages.ignore,
            warp=warp,
        )
        stages.run(stage, task, name="pix2pixHD")
        drawer, layer_weights = cast(StyledGenerator, task.players[0]), task.weights.weights.tolist()
        networks = Networks(drawer.generator, drawer.encoder, cast(Discriminator, task.players[1]))
        stages.finish(stage, task, networks.parts)
    assert networks is not None
    bank = None
    if networks.encoder is not None:
        shrink = 2 ** (len(stages.steps) - 1)
        bank = fit_bank(
            networks.encoder.eval(),
            source,
            num_centres=num_centres,
            smallest_instance=smallest_instance,
            seed=stages.settings.seed,
            shrink=shrink,
            ignore=stages.ignore,
        )
    return LayoutModel(
        networks.generator.eval().requires_grad_(False),
        tuple(source.class_names),
        style=design.style,
        encoder=networks.encoder,
        bank=bank,
        ignore=stages.ignore,
        layer_weights=tuple(layer_weights),
    )


def _make_trainable(networks: Networks, stage: int) -> list[nn.Module]:
    """All but a style encoder whose language the networks have learnt; returns what stays frozen at first."""
    generator = networks.generator.requires_grad_(True).train()
    networks.discriminator.requires_grad_(True).train()
    if networks.encoder is not None:
        networks.encoder.requires_grad_(stage == 0).train()
    return [generator.global_generator, *generator.enhancers[:-1]] if stage else []


def _layer_weights(trunk: TrunkKind, num_layers: int) -> LayerWeights:
    """Of VGG-19 those published, with which the loss is of order 1; of other trunks they are found so that it is."""
    if trunk != "vgg19":
        return LayerWeights(num_layers, total_loss=1.0)
    weights = LayerWeights(num_layers)
    weights.weights.copy_(torch.tensor(PIX2PIXHD_WEIGHTS))
    return weights


def _load(stages: Stages, stage: int, design: Design) -> Networks:
    folder = stages.folder(stage)
    encoder = StyleEncoder.from_pretrained(folder / "encoder") if design.style == "encoder" else None
    return Networks(
        Pix2PixHDGenerator.from_pretrained(folder / "generator"),
        encoder,
        load_discriminator(folder / "discriminator", kind=design.discriminator),
    )
