"""Laws of pretraining: the loop learns nothing twice, an interruption leaves no trace, and the export loads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastsynth.config import load_config
from fastsynth.diffusion import pretrain as module
from fastsynth.diffusion.adversarial import PatchDiscriminator
from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.base import load_autoencoder
from fastsynth.diffusion.pretrain import AutoencoderConfig, CropPool, pretrain

SHIPPED_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "autoencoder.yaml"


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def config(output: Path, **changes) -> AutoencoderConfig:
    settings = {
        "latent_channels": 2, "surfaces": 2, "steps": 3, "batch_size": 2, "crop_size": 32, "large_crop_size": 64,
        "large_crop_start": 0.6, "adversarial_start": 0.3, "save_every": 1,
    }  # fmt: skip
    return AutoencoderConfig(output=output, **(settings | changes))


def test_a_killed_and_resumed_pretraining_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    straight = load_autoencoder(pretrain(config(tmp_path / "straight")))
    crops = module._crops

    def kill_at_step_2(settings, step):
        if step == 2:
            raise Killed
        return crops(settings, step)

    monkeypatch.setattr(module, "_crops", kill_at_step_2)
    with pytest.raises(Killed):
        pretrain(config(tmp_path / "killed"))
    monkeypatch.undo()
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-2").is_dir()
    half_way = load_autoencoder(tmp_path / "killed" / "model")
    resumed = load_autoencoder(pretrain(config(tmp_path / "killed")))
    assert isinstance(resumed, CompactAutoencoder)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-6, rtol=0, msg=name)
    assert any(not torch.equal(half_way.state_dict()[name], value) for name, value in straight.state_dict().items())


class TestCropPool:
    def pool(self) -> CropPool:
        rng = np.random.default_rng(0)
        surfaces = [rng.integers(0, 256, (100, 90, 3), np.uint8) for _ in range(3)]
        return CropPool(surfaces=surfaces, free=[np.full((80, 80, 3), 200, np.uint8)])

    @pytest.mark.parametrize("size", [32, 72, 128])
    def test_crops_have_the_size_asked_for_and_the_range_of_the_models(self, size):
        batch = self.pool().batch(size, 12, np.random.default_rng(0))
        assert batch.shape == (12, 3, size, size)
        assert batch.dtype == torch.float32
        assert batch.abs().max() <= 1

    def test_the_same_rng_gives_the_same_batch_and_grey_pictures_are_among_them(self):
        first, second = (self.pool().batch(32, 40, np.random.default_rng(1)) for _ in range(2))
        assert torch.equal(first, second)
        grey = [torch.equal(crop[0], crop[1]) and torch.equal(crop[1], crop[2]) for crop in first]
        assert 0 < sum(grey) < 40


def test_late_crops_are_large_and_as_many_fewer_as_keeps_the_pixels():
    settings = config(Path("unused"), steps=100, batch_size=12)
    assert module._crops(settings, 59) == (32, 12)
    assert module._crops(settings, 60) == (64, 3)


def test_roughness_is_the_power_that_the_means_over_4x4_cells_do_not_hold():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(2, 3, 4, 4, generator=generator).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert module.latent_roughness(blocks).item() == pytest.approx(0, abs=1e-6)
    white = torch.randn(4, 8, 64, 64, generator=generator)
    assert module.latent_roughness(white).item() == pytest.approx(15 / 16, abs=0.02)
    assert module.latent_roughness(blocks + 0.5).item() == pytest.approx(0, abs=1e-6)


def test_the_noise_keeps_its_first_scale_then_declines_evenly_to_the_last():
    settings = config(Path("unused"), steps=100, latent_noise=(0.5, 0.1), noise_decline_start=0.2)
    scales = [module._noise_scale(settings, step) for step in (0, 20, 60, 100)]
    assert scales == pytest.approx([0.5, 0.5, 0.3, 0.1])


def test_the_discriminator_judges_patches():
    judge = PatchDiscriminator(width=8)
    image = torch.zeros(2, 3, 64, 64, requires_grad=True)
    logits = judge(image)
    assert logits.shape == (2, 1, 8, 8)
    logits[0, 0, 4, 4].backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert ((seen.max(0).values - seen.min(0).values) < 38).all()
    assert not image.grad[1].any()


def test_the_recipe_of_the_shipped_weights_is_valid():
    settings = load_config(AutoencoderConfig, SHIPPED_CONFIG, [])
    assert settings.latent_channels == load_autoencoder(None).config["latent_channels"]
