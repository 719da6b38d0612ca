"""Settings of a segmenter's training. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fastsynth.augment_config import AugmentConfig
from fastsynth.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class SegmentConfig(Config):
    """One segmenter: network, crops, loss, schedule. The defaults fit two CPU cores: about a quarter of an hour."""

    arch: str = "Unet"
    """Architecture by its name in segmentation-models-pytorch: Unet, UnetPlusPlus, FPN, Segformer, …"""
    encoder_name: str = "tu-tf_efficientnet_lite0"
    """Encoder by its name in segmentation-models-pytorch."""
    encoder_weights: Literal["offline", "imagenet"] | None = "offline"
    """offline: ImageNet weights from the extra `offline`, only for tu-tf_efficientnet_lite0. imagenet: downloaded
    from the hub. null: random."""
    decoder_channels: tuple[int, ...] | None = (128, 64, 32, 16, 8)
    """Width of every decoder stage of the Unet family, coarse to fine. null: the architecture's own."""

    crop_size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Side of the square training crops, px."""
    batch_size: Annotated[int, Field(ge=2)] = 12
    """Crops per iteration."""
    normal_share: Share = 0.25
    """Share of every batch that comes from normal images, masks empty."""
    synthetic_ratio: Share = 0.0
    """Probability that a defect crop comes from a synthetic sample: 0 real only, 1 synthetic only."""
    synthetic_until: Share = 0.7
    """Share of the iterations after which no synthetic sample is drawn where a type has real ones: the last ones, at
    low rates, settle on how real defects look. 1: synthetic to the end."""
    random_share: Share = 0.2
    """Share of the defect crops that lie anywhere in a defect image; the others show a defect."""
    hard_negative_share: Share = 0.5
    """Share of the normal crops that are cut around what the segmenter, in training, calls a defect where none is."""
    source_share: Share = 0.5
    """Share of the other normal crops, while samples are drawn, that show where one has its defect, but in the
    photograph that it was drawn on: the place is then no sign of a defect. 0 for samples whose borders show, as those
    may be learnt."""
    zoom: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.4, 1.4)
    """Range of the random magnification of a crop; above 1 enlarges."""
    augment: AugmentConfig = AugmentConfig()
    """The albumentations pipeline, applied to the crops."""

    loss: Literal["dice_ce", "dice_focal", "lovasz"] = "dice_ce"
    """Dice per crop plus cross-entropy, Dice per crop plus focal loss, or Lovász hinge plus cross-entropy."""
    iterations: Annotated[int, Field(ge=1)] = 1200
    """Optimizer steps."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Peak rate of AdamW; warm-up over a twentieth of the iterations, then a cosine to zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the averaged weights, which are the ones judged and kept. 0: no averaging."""

    validate_every: Annotated[int, Field(ge=1)] = 100
    """Iterations between validations; each also writes a checkpoint to resume from."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better one and keep the best weights. null: keep the last weights,
    averaged at the end of the cosine; a few validation images are too noisy to tell two checkpoints apart."""
    tile: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    """Side of the tiles at prediction, px."""
    overlap: Annotated[int, Field(ge=0)] = 32
    """Pixels by which neighbouring tiles overlap at least."""

    cache_megabytes: Annotated[int, Field(ge=0)] = 1024
    """Memory for decoded training images."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare crops; 0 prepares them in the training process."""

    @model_validator(mode="after")
    def _ordered(self) -> "SegmentConfig":
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom is {list(self.zoom)}; wanted [smallest, largest]")
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} reaches the tile size {self.tile}; wanted less")
        if self.encoder_weights == "offline" and self.encoder_name != "tu-tf_efficientnet_lite0":
            raise ValueError(
                f"encoder_weights offline are those of tu-tf_efficientnet_lite0, encoder_name is {self.encoder_name}; "
                "set encoder_weights to imagenet or null"
            )
        return self
