"""Settings of CRN and pix2pixHD: their networks, their training, and the two ways they are used. No torch."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fastsynth.config import Config

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Trunk = Literal["offline", "vgg19", "random"]

PATCH_KEYS = ("adversary", "discriminator_width", "num_scales", "spectral_norm", "feature_weight", "pool_size")
SEGMENTER_KEYS = ("label_mix_weight",)
"""Settings of pix2pixHD's training that only the one kind of discriminator has."""
SMALLEST_BASE = 4
"""Pixels of CRN's coarsest module."""
SMALLEST_BOTTLENECK = 4
"""Pixels of the coarsest maps of pix2pixHD's networks, which are normalised: of fewer little is left."""
SMALLEST_JUDGED = 10
"""Pixels of the smallest pictures of patch discriminators; none of their maps is smaller than 3×3 then."""
SMALLEST_SEEN = 16
"""Pixels that every perceptual trunk can look at."""
SEGMENTER_HALVINGS = 3
"""Of a segmenter's input."""


class TrainingConfig(Config):
    """What both trainings have: stages, batches, averaging, the perceptual trunk."""

    stage_steps: Annotated[tuple[Positive, ...], Field(min_length=1)] = (300, 500)
    """Optimizer steps of every stage; each stage works at twice the size of the one before, the last at full size."""
    batch_size: Positive = 4
    """Crops per step."""
    gradient_accumulation_steps: Positive = 1
    """Batches whose gradients are added up for one step."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the averaged weights, which are the ones kept."""
    trunk: Trunk = "offline"
    """Network behind the perceptual loss: EfficientNet-Lite0 from the extra `offline`, VGG-19 from torchvision's hub,
    or a small random one."""
    calibration_steps: Annotated[int, Field(ge=0)] = 50
    """First steps of every stage, after which the trunk's layers are weighted so that each counts the same."""
    save_every: Positive = 100
    """Steps between checkpoints."""
    sample_every: Positive = 200
    """Steps between sheets of samples."""

    @property
    def max_train_steps(self) -> int:
        """Of all stages."""
        return sum(self.stage_steps)

    @property
    def calibrates(self) -> bool:
        """Whether the weights of the trunk's layers have to be found."""
        return True

    @model_validator(mode="after")
    def _ends_calibration(self) -> Self:
        shortest = min(self.stage_steps)
        if self.calibrates and self.calibration_steps >= shortest:
            raise ValueError(
                f"calibration_steps {self.calibration_steps} would never end, the shortest stage of stage_steps has "
                f"{shortest} steps; make them fewer"
            )
        return self


class CRNTrainingConfig(TrainingConfig):
    """Perceptual regression of several outputs at once (arXiv 1707.09405)."""

    learning_rate: Rate = 1e-3
    """Of Adam, until it falls."""
    decay_share: Share = 0.5
    """Last share of a stage in which the learning rate falls to 0; 0 keeps it, as published."""
    diversity_mean_weight: tuple[PositiveShare, PositiveShare] = (0.2, 0.01)
    """Share of the mean over the outputs beside the best one, at the start and the end of a stage. Published: 0.001
    throughout. Outputs that never win learn from it alone; it also makes the outputs alike."""
    class_norm: Literal["none", "area", "sqrt_area"] = "none"
    """What a class counts in a picture: its area (as published), the same as every other, or between."""


class Pix2PixHDTrainingConfig(TrainingConfig):
    """Adversarial training, first global, then with local enhancers (arXiv 1711.11585)."""

    learning_rate: Rate = 4e-4
    """Of the generator and the style encoder, until it falls."""
    discriminator_learning_rate: Rate = 4e-4
    """Of the discriminators, until it falls."""
    decay_share: Share = 0.5
    """Last share of a stage in which both learning rates fall to 0."""
    freeze_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of every stage after the first in which only the new enhancer and the head are trained."""
    discriminator: Literal["patch", "segmenter"] = "patch"
    """patch: real or rendered, per patch, at several sizes. segmenter: per pixel its class or rendered (OASIS)."""
    adversary: Literal["lsgan", "hinge"] = "lsgan"
    """Loss of the patch discriminators."""
    discriminator_width: Positive = 24
    """Channels of the patch discriminators' first layer."""
    num_scales: Positive = 2
    """Sizes the patch discriminators look at in the first stage; every further stage adds one."""
    spectral_norm: bool = False
    """Of the patch discriminators; a segmenter always has it."""
    feature_weight: Weight = 10.0
    """Of feature matching between the patch discriminators' layers."""
    perceptual_weight: Weight = 10.0
    """Of a perceptual loss of order 1: VGG-19 with the published weights of its layers, other trunks with weights that
    make it 1 on average over `calibration_steps`."""
    label_mix_weight: Weight = 10.0
    """Of a segmenter's consistency under LabelMix."""
    noise_draws: Annotated[int, Field(ge=1, le=32)] = 6
    """With noise styles, draws of each layout of which the one nearest to the photo is drawn nearer, class by class:
    so different noise comes to give different looks. The time of a step grows with it."""
    pool_size: Annotated[int, Field(ge=0)] = 0
    """Past renders kept for the patch discriminators; 0 keeps none, as published."""

    @property
    def calibrates(self) -> bool:
        """Not with VGG-19, whose weights are published."""
        return self.trunk != "vgg19"

    @model_validator(mode="after")
    def _listens(self) -> Self:
        idle = PATCH_KEYS if self.discriminator == "segmenter" else SEGMENTER_KEYS
        given = [key for key in idle if getattr(self, key) != type(self).model_fields[key].default]
        if given:
            raise ValueError(
                f"discriminator {self.discriminator} has no use for {', '.join(given)}; remove them, or choose the "
                "other discriminator"
            )
        return self

    @model_validator(mode="after")
    def _begins_calibration(self) -> Self:
        if self.calibrates and self.calibration_steps == 0:
            raise ValueError(
                f"calibration_steps is 0, and trunk {self.trunk} has no published weights of its layers; give it some "
                "steps, or choose trunk vgg19"
            )
        return self


class CRNNetworkConfig(Config):
    """The chain of refinement modules."""

    widths: Annotated[tuple[Positive, ...], Field(min_length=2)] = (96, 96, 64, 48, 32, 24)
    """Channels of each module, coarsest first; n modules need sides of 4·2^(n-1) pixels at least."""
    num_outputs: Positive = 3
    """Different pictures drawn for every layout."""
    norm: Literal["joint", "class_adaptive"] = "class_adaptive"
    """joint as published; class_adaptive with gain and offset by class (CLADE)."""
    edges: bool = False
    """Show the borders of instances too; not in the publication."""


class Pix2PixHDNetworkConfig(Config):
    """Global generator and enhancers; there is one enhancer for every stage after the first."""

    width: Positive = 24
    """Channels at full size; each halving of the side doubles them."""
    num_downsamples: Positive = 3
    """Halvings of the side in the global generator."""
    num_blocks: Annotated[int, Field(ge=0)] = 4
    """Residual blocks of the global generator, at its coarsest."""
    num_enhancer_blocks: Annotated[int, Field(ge=0)] = 2
    """Residual blocks of every enhancer."""
    norm: Literal["instance", "class_adaptive"] = "class_adaptive"
    """instance as published; class_adaptive with gain and offset by class and style after it."""
    upsampling: Literal["resize", "transposed"] = "resize"
    """In generator and style encoder: transposed as published; resize repeats pixels, then convolves."""
    style: Literal["none", "encoder", "noise"] = "encoder"
    """What tells two instances of a class apart: nothing, a vector that an encoder finds in real ones, or noise."""
    style_channels: Positive = 3
    """Numbers in a style vector."""
    num_centres: Positive = 10
    """Looks kept per class, centres of the encoder's vectors."""
    smallest_instance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the picture below which an instance has no say in the looks; 0.0156 as published."""
    encoder_width: Positive = 8
    """Channels of the style encoder at full size."""
    encoder_downsamples: Positive = 3
    """Halvings of the side in the style encoder."""


def check_sizes(
    network: CRNNetworkConfig | Pix2PixHDNetworkConfig, training: TrainingConfig, *, crop_size: int, key: str
) -> None:
    """Raises ValueError unless the networks of all stages can be built and take their pictures.

    crop_size: side at full size in pixels, which the user knows as `key`.
    """
    stages = len(training.stage_steps)
    first = 2 ** (stages - 1)
    if crop_size < SMALLEST_SEEN * first:
        raise ValueError(
            f"the first of the {stages} stages of training.stage_steps works at 1/{first} of {key} {crop_size}, the "
            f"perceptual trunk needs {SMALLEST_SEEN} pixels; give fewer stages, or a larger {key}"
        )
    match network:
        case CRNNetworkConfig(widths=widths):
            if stages >= len(widths):
                raise ValueError(
                    f"training.stage_steps has {stages} stages, which grow {len(widths)} modules of network.widths; "
                    "give fewer stages or more widths"
                )
            _check_side(crop_size, key, 2 ** (len(widths) - 1), SMALLEST_BASE, f"{len(widths)} network.widths")
        case Pix2PixHDNetworkConfig():
            if network.width % first:
                raise ValueError(
                    f"network.width is {network.width}; {stages} stages of training.stage_steps need a multiple of "
                    f"{first}"
                )
            halvings = {f"network.num_downsamples {network.num_downsamples}": network.num_downsamples}
            if network.style == "encoder":
                halvings[f"network.encoder_downsamples {network.encoder_downsamples}"] = network.encoder_downsamples
            for name, count in halvings.items():
                _check_side(
                    crop_size, key, 2**count * first, SMALLEST_BOTTLENECK, f"{name} and {stages} training.stage_steps"
                )
            assert isinstance(training, Pix2PixHDTrainingConfig)
            _check_discriminator(training, crop_size=crop_size, key=key)


def _check_discriminator(training: Pix2PixHDTrainingConfig, *, crop_size: int, key: str) -> None:
    """In the first stage, whose smallest pictures are as small as those of the others."""
    stages = len(training.stage_steps)
    first = 2 ** (stages - 1)
    if training.discriminator == "segmenter":
        needed_by = f"training.discriminator segmenter and {stages} training.stage_steps"
        _check_side(crop_size, key, 2**SEGMENTER_HALVINGS * first, 1, needed_by)
        return
    smallest = math.ceil(crop_size / (first * 2 ** (training.num_scales - 1)))
    if smallest < SMALLEST_JUDGED:
        raise ValueError(
            f"{key} is {crop_size}; training.num_scales {training.num_scales} and {stages} training.stage_steps leave "
            f"the coarsest patch discriminator {smallest} pixels of it, at least {SMALLEST_JUDGED} are needed: change "
            "one of them"
        )


def _check_side(crop_size: int, key: str, multiple: int, smallest: int, needed_by: str) -> None:
    if crop_size % multiple or crop_size < smallest * multiple:
        raise ValueError(
            f"{key} is {crop_size}; {needed_by} need a multiple of {multiple} pixels, at least {smallest * multiple}: "
            "change one of them"
        )


class CRNCropTrainingConfig(CRNTrainingConfig):
    """On crops around training defects."""

    class_norm: Literal["none", "area", "sqrt_area"] = "area"
    """What a class counts in a picture: its area (as published), the same as every other, or between."""
    defect_crops: Positive = 1200
    """Augmented views of the training defects, all types alike."""
    normal_crops: Annotated[int, Field(ge=0)] = 200
    """Views of normal images under borrowed masks: they teach what a sound surface looks like under a mask."""
    normal_share: Share = 0.15
    """Share of normal crops in a batch."""


class Pix2PixHDCropTrainingConfig(Pix2PixHDTrainingConfig):
    """On crops around training defects."""

    defect_crops: Positive = 1200
    """Augmented views of the training defects, all types alike."""
    normal_crops: Annotated[int, Field(ge=0)] = 200
    """Views of normal images under borrowed masks: they teach what a sound surface looks like under a mask."""
    normal_share: Share = 0.15
    """Share of normal crops in a batch."""


class LayoutRendererConfig(Config):
    """What both have as renderers of a run."""

    crop_size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Side of the network's square input in pixels."""
    context: Annotated[float, Field(ge=1.1)] = 2.0
    """Side of a crop as a multiple of the defect's longer side."""
    feather: Annotated[float, Field(ge=0)] = 2.0
    """Pixels of fading inside the mask's border."""


class CRNConfig(LayoutRendererConfig):
    """`renderer` section of a run with `kind: crn`."""

    kind: Literal["crn"] = "crn"
    network: CRNNetworkConfig = CRNNetworkConfig()
    training: CRNCropTrainingConfig = CRNCropTrainingConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_sizes(self.network, self.training, crop_size=self.crop_size, key="crop_size")
        return self


class Pix2PixHDConfig(LayoutRendererConfig):
    """`renderer` section of a run with `kind: pix2pixhd`."""

    kind: Literal["pix2pixhd"] = "pix2pixhd"
    network: Pix2PixHDNetworkConfig = Pix2PixHDNetworkConfig()
    training: Pix2PixHDCropTrainingConfig = Pix2PixHDCropTrainingConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_sizes(self.network, self.training, crop_size=self.crop_size, key="crop_size")
        return self


class PairsConfig(Config):
    """Photos and the layouts that belong to them."""

    photos: Path
    """Folder of photos; when `layouts` is null, of pictures with the photo left and its layout right."""
    layouts: Path | None = None
    """Folder of layouts: a picture's layout has its stem."""
    instances: Path | None = None
    """Folder of instance ids: grey, 8 or 16 bit (Cityscapes), or coloured (COCO panoptic); null: connected regions."""
    classes: Annotated[dict[str, tuple[int, int, int] | int], Field(min_length=1)]
    """Class name → its colour in the layouts, or its grey value."""
    ignore: tuple[int, int, int] | int | None = None
    """Grey value or colour of pixels without a class."""
    load_size: Positive = 144
    """Pictures are scaled so that their shorter side has so many pixels."""
    crop_size: Annotated[int, Field(ge=32, multiple_of=16)] = 128
    """Side of the square training crops."""
    flip: bool = True
    """Mirror half of the crops."""
    held_out: Annotated[int, Field(ge=0)] = 40
    """Pictures that are not trained on; the sheets show them."""
    warp_amplitude: Annotated[float, Field(ge=0)] = 0.0
    """Pixels by which the layouts the renderer sees are bent, so that it draws clean shapes inside rough ones."""
    warp_wavelength: Annotated[float, Field(gt=0)] = 3.0
    """Pixels over which the bend changes: few roughen borders as a hand does; as many as a shape is wide shift all of
    it, which nothing in the layout can tell."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.crop_size > self.load_size:
            raise ValueError(f"crop_size {self.crop_size} is larger than load_size {self.load_size}; make it smaller")
        return self


class CRNPhotoConfig(Config):
    kind: Literal["crn"] = "crn"
    network: CRNNetworkConfig = CRNNetworkConfig()
    training: CRNTrainingConfig = CRNTrainingConfig()


class Pix2PixHDPhotoConfig(Config):
    kind: Literal["pix2pixhd"] = "pix2pixhd"
    network: Pix2PixHDNetworkConfig = Pix2PixHDNetworkConfig()
    training: Pix2PixHDTrainingConfig = Pix2PixHDTrainingConfig()


class PhotoConfig(Config):
    """A general layout-to-photo renderer: `fastsynth photo train`."""

    output: Path
    """Folder for checkpoints, sheets and the model; made when missing, resumed when not."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the training and of the looks."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What it runs on; auto takes a GPU where there is one."""
    data: PairsConfig
    renderer: Annotated[CRNPhotoConfig | Pix2PixHDPhotoConfig, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_sizes(self.renderer.network, self.renderer.training, crop_size=self.data.crop_size, key="data.crop_size")
        return self
