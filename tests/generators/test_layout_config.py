"""The presets of whole pictures: valid, complete after a round trip, and of sizes that their networks take."""

from pathlib import Path

import pytest
import torch

from fastsynth.config import dump_config, load_config
from generators.crn import CRN
from generators.layout_config import CRNConfig, CRNPhotoConfig, PhotoConfig, Pix2PixHDConfig
from generators.pix2pixhd import Pix2PixHDGenerator

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
