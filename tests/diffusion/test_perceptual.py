"""Laws of the perceptual distance: zero for equal pictures, growing with the damage, deaf to the batch."""

import pytest
import torch

from fastsynth.diffusion.perceptual import PerceptualDistance


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


def picture(seed=0, count=1) -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    coarse = torch.randn((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=64, mode="bilinear").tanh()


def noise(seed=1) -> torch.Tensor:
    return torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


def test_equal_pictures_are_at_distance_zero_and_others_are_not(distance):
    assert not distance(picture(count=2), picture(count=2)).any()
    assert distance(picture(0), picture(1)) > 0.01


def test_it_is_symmetric_and_one_number_per_picture(distance):
    first, second = picture(0, count=3), picture(1, count=3)
    forth, back = distance(first, second), distance(second, first)
    assert forth.shape == (3,)
    torch.testing.assert_close(forth, back)
    for i in range(3):
        torch.testing.assert_close(distance(first[i : i + 1], second[i : i + 1])[0], forth[i], atol=1e-6, rtol=1e-4)


def test_more_noise_looks_further_away(distance):
    values = [float(distance(picture() + strength * noise(), picture())) for strength in (0.02, 0.1, 0.5)]
    assert 0 < values[0] < values[1] < values[2]


def test_lost_texture_costs_more_than_a_lift_of_the_same_squared_error(distance):
    rough = picture() * 0.5 + 0.2 * noise()
    smooth = picture() * 0.5
    lifted = rough + (rough - smooth).square().mean().sqrt()
    assert distance(smooth, rough) > 2 * distance(lifted, rough)


def test_gradients_flow_to_the_image_and_nowhere_else(distance):
    image, target = picture(0).requires_grad_(), picture(1).requires_grad_()
    distance(image, target).sum().backward()
    assert image.grad.any()
    assert image.grad.isfinite().all()
    assert target.grad is None
    assert not any(p.requires_grad for p in distance.parameters())


def test_following_the_gradient_brings_the_pictures_together(distance):
    image, target, values = picture(0), picture(1), []
    for _ in range(10):
        image.requires_grad_()
        values.append(distance(image, target).sum())
        (gradient,) = torch.autograd.grad(values[-1], image)
        image = image.detach() - 0.3 * gradient / gradient.norm()
    assert values[-1] < 0.95 * values[0]
