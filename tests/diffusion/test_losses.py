"""Laws of the losses: published values at their defaults, and no dependence on how large the defect is."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsynth.diffusion.losses import denoising_loss, farm_loss, fast_loss, foreground_loss

SHAPE = (3, 4, 8, 8)


def randn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def square(side: int) -> Tensor:
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    mask[..., :side, :side] = 1
    return mask


class TestDenoising:
    def test_without_extra_weight_it_is_the_plain_mean(self):
        got = denoising_loss(randn(0), randn(1), mask=square(3))
        torch.testing.assert_close(got, F.mse_loss(randn(0), randn(1)))

    def test_a_constant_error_costs_the_same_whatever_the_weight(self):
        for weight in (0.0, 1.0, 9.0):
            got = denoising_loss(randn(0) + 2, randn(0), mask=square(3), foreground_weight=weight)
            assert float(got) == pytest.approx(4)

    def test_extra_weight_moves_it_towards_the_foreground_error(self):
        prediction = randn(0)
        inside = float(foreground_loss(prediction, torch.zeros(SHAPE), mask=square(3)).mean())
        losses = [
            float(denoising_loss(prediction, torch.zeros(SHAPE), mask=square(3), foreground_weight=weight))
            for weight in (0.0, 3.0, 1e9)
        ]
        assert losses[2] == pytest.approx(inside)
        assert min(losses[0], inside) < losses[1] < max(losses[0], inside)


class TestFARM:
    def test_it_is_zero_at_the_masked_latent_only(self):
        mask = square(3)
        assert farm_loss(mask * randn(0), randn(0), mask=mask) == 0
        assert farm_loss(randn(0), randn(0), mask=mask) > 0

    @pytest.mark.parametrize("side", [1, 3, 7])
    def test_an_error_inside_counts_the_same_for_small_and_large_masks(self, side):
        mask = square(side)
        got = farm_loss(mask * (randn(0) + 2), randn(0), mask=mask)
        assert float(got) == pytest.approx(4 / 2)

    def test_at_half_coverage_it_is_the_published_mean(self):
        mask = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
        mask[..., :4, :] = 1
        torch.testing.assert_close(farm_loss(randn(0), randn(1), mask=mask), F.mse_loss(randn(0), mask * randn(1)))

    @pytest.mark.parametrize("side", [0, 8])
    def test_empty_and_full_masks_give_finite_losses_and_gradients(self, side):
        reconstruction = randn(0).requires_grad_()
        loss = farm_loss(reconstruction, randn(1), mask=square(side))
        loss.backward()
        assert loss.isfinite()
        assert reconstruction.grad.isfinite().all()


class TestForeground:
    def test_it_is_the_mean_over_masked_entries_of_each_sample(self):
        mask = torch.cat([square(2)[:1], square(5)[:1], square(8)[:1]])
        got = foreground_loss(randn(0), randn(1), mask=mask)
        for i in range(3):
            inside = mask[i].bool().expand(4, 8, 8)
            torch.testing.assert_close(got[i], F.mse_loss(randn(0)[i][inside], randn(1)[i][inside]))

    def test_errors_outside_the_mask_do_not_count(self):
        mask = square(3)
        assert not foreground_loss(randn(0) + 9 * (1 - mask), randn(0), mask=mask).any()

    def test_an_empty_mask_scores_zero(self):
        assert not foreground_loss(randn(0), randn(1), mask=square(0)).any()


def test_the_joint_loss_weighs_its_parts():
    reconstruction = randn(2).requires_grad_()
    prediction = randn(0).requires_grad_()
    loss = fast_loss(prediction, randn(1), reconstruction=reconstruction, latents=randn(3), mask=square(3))
    torch.testing.assert_close(loss.total, 2 * loss.denoise + 5 * loss.farm)
    torch.testing.assert_close(loss.denoise, F.mse_loss(randn(0), randn(1)).to(loss.denoise))
    loss.total.backward()
    assert prediction.grad.any()
    assert reconstruction.grad.any()
