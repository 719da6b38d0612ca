"""Laws of the compact base: masks survive the latent grid, hidden is hidden, and what is built fits together."""

import pytest
import torch
from torch.nn import functional

from fastsynth.diffusion.base import (
    BUNDLED_AUTOENCODER,
    HASHES,
    build_scheduler,
    build_unet,
    farm_input,
    latent_mask,
    load_autoencoder,
    save_autoencoder,
    unet_input,
)
from fastsynth.files import read_json


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestLatentMask:
    def test_a_single_pixel_makes_its_whole_cell_and_no_other(self):
        for y, x in ((0, 0), (7, 8), (31, 39), (16, 15)):
            mask = torch.zeros(1, 1, 32, 40)
            mask[0, 0, y, x] = 1
            wanted = torch.zeros(1, 1, 4, 5)
            wanted[0, 0, y // 8, x // 8] = 1
            assert torch.equal(latent_mask(mask), wanted)

    def test_it_covers_the_mask(self):
        mask = (torch.rand((3, 1, 32, 40), generator=torch.Generator().manual_seed(0)) < 0.01).float()
        covered = functional.interpolate(latent_mask(mask), scale_factor=8, mode="nearest")
        assert (covered >= mask).all()


class TestUNetInput:
    def test_it_is_the_noisy_latent_the_background_around_the_mask_and_the_exact_mask(self):
        noisy, background = randn(2, 4, 4, 5), randn(2, 4, 4, 5, seed=1)
        mask = (torch.rand((2, 1, 32, 40), generator=torch.Generator().manual_seed(0)) < 0.02).float()
        channels = unet_input(noisy, background, mask)
        assert channels.shape == (2, 4 + 4 + 64, 4, 5)
        inside = latent_mask(mask).bool().expand_as(background)
        assert torch.equal(channels[:, :4], noisy)
        assert torch.equal(channels[:, 4:8][~inside], background[~inside])
        assert not channels[:, 4:8][inside].any()
        assert torch.equal(functional.pixel_shuffle(channels[:, 8:], 8), mask)


class TestFarmInput:
    def test_outside_the_mask_the_input_stays(self):
        noisy, mask = randn(2, 4, 8, 8), (randn(2, 1, 8, 8, seed=1) > 0).float()
        got = farm_input(noisy, randn(2, 4, 8, 8, seed=2), mask, torch.tensor(0.3), randn(2, 4, 8, 8, seed=3))
        assert torch.equal(got * (1 - mask), noisy * (1 - mask))

    @pytest.mark.parametrize("timestep", [0, 300, 999])
    def test_inside_it_has_the_noise_level_of_its_timestep(self, timestep):
        scheduler = build_scheduler(kernel="exact", spacing="logsnr", solver_order=2)
        guess, noise = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
        alpha_bar = scheduler.alphas_cumprod[timestep].float()
        got = farm_input(0 * guess, guess, torch.ones(1, 1, 8, 8), alpha_bar, noise)
        torch.testing.assert_close(got, scheduler.add_noise(guess, noise, timestep), atol=1e-5, rtol=1e-5)


class TestBuilding:
    @pytest.mark.parametrize("widths", [(16, 16), (16, 24, 32)])
    def test_the_unet_takes_its_input_and_returns_latents(self, widths):
        unet = build_unet(latent_channels=4, size=64, block_out_channels=widths, layers_per_block=1, token_width=12)
        channels = unet_input(randn(2, 4, 8, 8), randn(2, 4, 8, 8), torch.ones(2, 1, 64, 64))
        with torch.no_grad():
            velocity = unet(channels, torch.tensor([3, 700]), randn(2, 5, 12)).sample
        assert velocity.shape == (2, 4, 8, 8)
        assert unet.config["sample_size"] == 8

    def test_the_scheduler_is_that_of_latent_diffusion_predicting_v(self):
        scheduler = build_scheduler(kernel="published", spacing="uniform", solver_order=1)
        assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0046601, rel=1e-4)
        assert scheduler.config["prediction_type"] == "v_prediction"
        assert (scheduler.config["kernel"], scheduler.config["spacing"]) == ("published", "uniform")


class TestLoading:
    def test_a_loaded_autoencoder_is_frozen_in_eval_mode_and_float32(self, tiny_autoencoder, tmp_path):
        tiny_autoencoder.half().save_pretrained(tmp_path)
        loaded = load_autoencoder(tmp_path)
        assert not loaded.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())

    def test_weights_that_are_not_the_saved_ones_are_refused(self, tiny_autoencoder, tmp_path):
        save_autoencoder(tiny_autoencoder, tmp_path)
        load_autoencoder(tmp_path)
        (weights,) = tmp_path.glob("*.safetensors")
        damaged = bytearray(weights.read_bytes())
        damaged[-1] ^= 1
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{weights.name} is damaged, its hash is not the recorded one"):
            load_autoencoder(tmp_path)

    def test_the_one_that_ships_has_its_hash(self):
        assert list(read_json(BUNDLED_AUTOENCODER / HASHES)) == ["diffusion_pytorch_model.safetensors"]

    def test_a_folder_without_one_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no saved autoencoder .*; check base\.autoencoder"):
            load_autoencoder(tmp_path / "nothing")
