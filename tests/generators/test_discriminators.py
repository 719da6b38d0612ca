"""Multi-scale patch discriminators: published size and map sizes, order of the scales, spectral norm."""

import pytest
import torch

from generators.discriminators import MultiScaleDiscriminator


def tiny(**arguments) -> MultiScaleDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiScaleDiscriminator(5, width=8, **arguments)


def image(size: int = 64) -> torch.Tensor:
    return torch.randn((2, 5, size, size), generator=torch.Generator().manual_seed(0))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("channels", "width", "count"), [(39, 64, 2 * 2_801_601), (10, 8, 90_866), (10, 16, 353_762), (10, 24, 788_690)]
)
def test_it_has_the_published_size(channels, width, count):
    with torch.device("meta"):
        assert parameters(MultiScaleDiscriminator(channels, width=width)) == count


def test_maps_have_the_published_sizes():
    with torch.device("meta"):
        coarse, fine = MultiScaleDiscriminator(39, width=8)(torch.zeros(1, 39, 512, 1024))
    sizes = [tuple(x.shape[-2:]) for x in fine]
    assert sizes == [(257, 513), (129, 257), (65, 129), (66, 130), (67, 131)]
    assert coarse[0].shape[-2:] == (129, 257)
    assert [x.shape[1] for x in fine] == [8, 16, 32, 64, 1]


def test_a_logit_sees_a_patch_of_70_pixels():
    model = tiny(num_scales=1).double()
    model.requires_grad_(False)
    for layer in list(model.scales[0].layers)[1:-1]:  # norms see the whole image: leave them out
        layer[1] = torch.nn.Identity()
    x = image(160).double().requires_grad_()
    logits = model(x)[0][-1]
    logits[0, 0, 10, 10].backward()
    touched = x.grad[0].abs().sum(0) > 0
    assert touched.any(0).sum() == touched.any(1).sum() == 70


def test_scale_0_is_the_coarsest_so_a_finer_one_leaves_the_others_alone():
    two, three = tiny(num_scales=2), tiny(num_scales=3)
    three.load_state_dict(two.state_dict(), strict=False)
    half = torch.nn.functional.avg_pool2d(image(), 3, stride=2, padding=1, count_include_pad=False)
    for wanted, found in zip(two(half), three(image())[:2], strict=True):
        torch.testing.assert_close(found[-1], wanted[-1])


def test_spectral_norm_bounds_every_layer():
    model = tiny(spectral_norm=True)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.parametrizations.weight.original.mul_(50)
        for _ in range(30):  # power iterations run in training mode
            model(image())
        for scale in model.eval().scales:
            for layer in scale.layers:
                assert torch.linalg.matrix_norm(layer[0].weight.flatten(1), 2) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_saved_discriminator_comes_back(spectral_norm, tmp_path):
    model = tiny(spectral_norm=spectral_norm).eval()
    model.save_pretrained(tmp_path)
    loaded = MultiScaleDiscriminator.from_pretrained(tmp_path)
    for wanted, found in zip(model(image()), loaded(image()), strict=True):
        torch.testing.assert_close(found[-1], wanted[-1])
