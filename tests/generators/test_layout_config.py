"""The presets of whole pictures: valid, complete after a round trip, and of sizes that their networks take."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fastsynth.config import dump_config, load_config
from generators.crn import CRN
from generators.discriminators import MultiScaleDiscriminator
from generators.layout_config import (
    CRNConfig,
    CRNNetworkConfig,
    CRNPhotoConfig,
    CRNTrainingConfig,
    PhotoConfig,
    Pix2PixHDConfig,
    Pix2PixHDNetworkConfig,
    Pix2PixHDTrainingConfig,
    check_sizes,
)
from generators.pix2pixhd import Pix2PixHDGenerator
from generators.segmenter_discriminator import SegmenterDiscriminator
from generators.style import StyleEncoder

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["facades_crn", "facades_pix2pixhd"])
def test_a_preset_round_trips(name, tmp_path):
    config = load_config(PhotoConfig, CONFIGS / f"{name}.yaml")
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(PhotoConfig, tmp_path / "again.yaml") == config
    assert f"facades_{config.renderer.kind}" == name


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (CRNConfig(), 128),
        (Pix2PixHDConfig(), 128),
        (load_config(PhotoConfig, CONFIGS / "facades_crn.yaml").renderer, 128),
        (load_config(PhotoConfig, CONFIGS / "facades_pix2pixhd.yaml").renderer, 128),
    ],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
def test_the_first_and_the_last_stage_fit_their_pictures(settings, size):
    stages = len(settings.training.stage_steps)
    for enhancers in (0, stages - 1):
        side = size // 2 ** (stages - 1 - enhancers)
        with torch.device("meta"):
            if isinstance(settings, CRNConfig | CRNPhotoConfig):
                widths = settings.network.widths[: len(settings.network.widths) - stages + 1 + enhancers]
                network = CRN(4, widths=widths)
            else:
                keys = {"width", "num_downsamples", "num_blocks", "num_enhancer_blocks", "norm", "upsampling"}
                network = Pix2PixHDGenerator(
                    4, edges=False, num_enhancers=enhancers, **settings.network.model_dump(include=keys)
                )
            assert network(torch.zeros(1, 4, side, side)).shape[-2:] == (side, side)


def taken(network, side: int) -> bool:
    """Whether a network on no device takes pictures of this side."""
    try:
        network(side)
    except ValueError:
        return False
    return True


def smallest_map(network: nn.Module, run: Callable[[torch.Tensor], object], image: torch.Tensor) -> int:
    """Shortest side of all that the network's convolutions give in this run of it."""
    sides = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.register_forward_hook(lambda part, given, found: sides.append(min(found.shape[-2:])))
    run(image)
    return min(sides)


@pytest.mark.parametrize("side", [32, 48, 64, 96, 128])
@pytest.mark.parametrize("modules", [3, 4, 5, 6])
def test_settings_of_crn_are_accepted_where_the_network_takes_the_pictures(modules, side):
    widths = (2,) * modules
    with torch.device("meta"):
        fits = taken(lambda side: CRN(2, widths=widths)(torch.zeros(1, 2, side, side)), side)
    training = CRNTrainingConfig(stage_steps=(60, 60))
    assert (
        taken(lambda side: check_sizes(CRNNetworkConfig(widths=widths), training, crop_size=side, key=""), side) == fits
    )


@pytest.mark.parametrize("side", [64, 80, 96, 120])
def test_settings_of_a_segmenter_are_accepted_where_it_takes_the_pictures(side):
    network = Pix2PixHDNetworkConfig(num_downsamples=1, encoder_downsamples=1)
    training = Pix2PixHDTrainingConfig(stage_steps=(60, 60, 60), discriminator="segmenter")
    with torch.device("meta"):
        judge = SegmenterDiscriminator(2, spectral_norm=False)
        fits = taken(lambda side: judge(torch.zeros(1, 3, side // 4, side // 4)), side)
    assert taken(lambda side: check_sizes(network, training, crop_size=side, key=""), side) == fits


@pytest.mark.parametrize("side", [32, 48, 64, 96])
@pytest.mark.parametrize(("downsamples", "encoder_downsamples"), [(2, 2), (3, 2), (2, 4), (4, 3), (5, 2)])
def test_settings_of_pix2pixhd_are_accepted_where_the_networks_take_the_pictures(
    downsamples, encoder_downsamples, side
):
    settings = Pix2PixHDNetworkConfig(
        width=2, num_downsamples=downsamples, num_blocks=0, encoder_downsamples=encoder_downsamples
    )

    def draw(side: int) -> None:
        with torch.device("meta"):
            network = Pix2PixHDGenerator(2, edges=False, width=2, num_downsamples=downsamples, num_enhancers=1)
            encoder = StyleEncoder(width=2, num_downsamples=encoder_downsamples)
            whole, half = torch.zeros(1, 2, side, side), torch.zeros(1, 3, side // 2, side // 2)
            sides = smallest_map(network, network, whole), smallest_map(encoder, encoder.features, half)
        if min(sides) < 4:
            raise ValueError(sides)

    training = Pix2PixHDTrainingConfig(stage_steps=(60, 60), num_scales=1)
    assert taken(lambda side: check_sizes(settings, training, crop_size=side, key=""), side) == taken(draw, side)


@pytest.mark.parametrize("side", [32, 48, 64, 80, 96, 160])
@pytest.mark.parametrize("num_scales", [1, 2, 3, 4])
def test_settings_of_patch_discriminators_are_accepted_where_their_maps_have_3_pixels(num_scales, side):
    network = Pix2PixHDNetworkConfig(num_downsamples=1, encoder_downsamples=1)
    training = Pix2PixHDTrainingConfig(stage_steps=(60, 60), num_scales=num_scales)
    with torch.device("meta"):
        smallest = min(
            smallest_map(judge, judge, torch.zeros(1, 5, pixels, pixels))
            for judge, pixels in (
                (MultiScaleDiscriminator(5, width=2, num_scales=num_scales), side // 2),
                (MultiScaleDiscriminator(5, width=2, num_scales=num_scales + 1), side),
            )
        )
    assert taken(lambda side: check_sizes(network, training, crop_size=side, key=""), side) == (smallest >= 3)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CRNConfig, {"crop_size": 64}, "crop_size is 64; 6 network.widths need a multiple of 32 pixels, at least 128"),
        (CRNConfig, {"network": {"widths": [8, 8]}}, "2 stages, which grow 2 modules of network.widths"),
        (CRNConfig, {"training": {"stage_steps": [9, 70], "calibration_steps": 9}}, "the shortest .* has 9 steps"),
        (CRNConfig, {"training": {"stage_steps": [60] * 5}}, "first of the 5 stages .* works at 1/16 of crop_size 128"),
        (Pix2PixHDConfig, {"network": {"width": 6}, "training": {"stage_steps": [60] * 3}}, "width is 6; 3 stages"),
        (Pix2PixHDConfig, {"crop_size": 32, "training": {"stage_steps": [60, 60]}, "network": {"num_downsamples": 4}},
         "crop_size is 32; network.num_downsamples 4 and 2 training.stage_steps need a multiple of 32 pixels"),
        (Pix2PixHDConfig, {"crop_size": 32}, "num_downsamples 3 and 2 .* need a multiple of 16 pixels, at least 64"),
        (Pix2PixHDConfig, {"crop_size": 64, "training": {"num_scales": 3}},
         "is 64; training.num_scales 3 and 2 training.stage_steps leave the coarsest patch discriminator 8 pixels of"),
        (Pix2PixHDConfig, {"training": {"stage_steps": [40, 60]}}, "calibration_steps 50 would never end"),
        (Pix2PixHDConfig, {"training": {"discriminator": "segmenter", "num_scales": 3, "pool_size": 9}},
         "discriminator segmenter has no use for num_scales, pool_size; remove them"),
        (Pix2PixHDConfig, {"training": {"label_mix_weight": 5}}, "patch has no use for label_mix_weight;"),
        (Pix2PixHDConfig, {"training": {"calibration_steps": 0}}, "calibration_steps is 0, and trunk offline has no"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_by_name(kind, values, message):
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(values)


def test_a_segmenter_with_defaults_round_trips(tmp_path):
    training = Pix2PixHDTrainingConfig(discriminator="segmenter", label_mix_weight=5)
    (tmp_path / "training.yaml").write_text(dump_config(training))
    assert load_config(Pix2PixHDTrainingConfig, tmp_path / "training.yaml") == training


@pytest.mark.parametrize(
    ("kind", "values"),
    [(CRNTrainingConfig, {"calibration_steps": 0}), (Pix2PixHDTrainingConfig, {"trunk": "vgg19"})],
)
def test_a_stage_shorter_than_the_calibration_is_refused_only_where_there_is_one(kind, values):
    assert kind(stage_steps=(1,), **values).max_train_steps == 1
    with pytest.raises(ValidationError, match="calibration_steps 50 would never end"):
        kind(stage_steps=(1,))
