"""pix2pixHD's generator: published sizes, any number of enhancers, growing, folders."""

import pytest
import torch

from generators.encoding import one_hot
from generators.pix2pixhd import Pix2PixHDGenerator

PUBLISHED_BLOCKS = {"norm": "instance", "upsampling": "transposed"}


def tiny(**arguments) -> Pix2PixHDGenerator:
    """16 channels at two halvings; the same weights every time."""
    defaults = {"edges": False, "width": 8, "num_downsamples": 2, "num_blocks": 1, "num_enhancer_blocks": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pix2PixHDGenerator(4, **{**defaults, **arguments})


def layout(height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return one_hot(torch.randint(4, (2, height, width), generator=generator), num_classes=4)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class TestSize:
    @pytest.mark.parametrize(
        ("style_channels", "num_enhancers", "count"),
        [(0, 0, 182_546_755), (3, 0, 182_556_163), (0, 1, 182_857_059), (3, 1, 182_871_171)],
    )
    def test_published_networks_have_the_published_size(self, style_channels, num_enhancers, count):
        with torch.device("meta"):
            model = Pix2PixHDGenerator.published(style_channels=style_channels, num_enhancers=num_enhancers)
        assert parameters(model) == count

    @pytest.mark.parametrize(
        ("arguments", "count"),
        [
            ({"width": 8, "num_downsamples": 2, "num_blocks": 2}, 53_691),
            ({"width": 16, "num_downsamples": 3, "num_blocks": 3}, 1_089_587),
            ({"width": 24, "num_downsamples": 3, "num_blocks": 4}, 3_107_019),
            ({"width": 16, "num_downsamples": 2, "num_blocks": 2, "num_enhancers": 1}, 213_867),
            ({"width": 16, "num_downsamples": 3, "num_blocks": 3, "num_enhancers": 1}, 1_099_307),
            ({"width": 16, "num_downsamples": 2, "num_blocks": 2, "num_enhancers": 2}, 216_999),
        ],
    )
    @pytest.mark.parametrize("upsampling", ["transposed", "resize"])
    def test_small_networks_have_the_size_of_their_description(self, arguments, count, upsampling):
        with torch.device("meta"):
            model = Pix2PixHDGenerator(
                6, style_channels=3, num_enhancer_blocks=1, norm="instance", upsampling=upsampling, **arguments
            )
        assert parameters(model) == count


class TestForward:
    @pytest.mark.parametrize("num_enhancers", [0, 1, 2])
    @pytest.mark.parametrize("norm", ["instance", "class_adaptive"])
    @pytest.mark.parametrize("upsampling", ["transposed", "resize"])
    def test_one_image_of_the_layout_s_size(self, num_enhancers, norm, upsampling):
        model = tiny(num_enhancers=num_enhancers, norm=norm, upsampling=upsampling)
        image = model(layout(32, 48))
        assert image.shape == (2, 3, 32, 48)
        assert 0 < image.abs().max() < 1

    def test_a_sample_does_not_depend_on_its_batch(self):
        model = tiny(num_enhancers=1)
        torch.testing.assert_close(model(layout())[1:], model(layout()[1:]), atol=1e-5, rtol=1e-4)

    def test_every_network_in_the_chain_takes_part(self):
        model = tiny(num_enhancers=2)
        model(layout(32, 32)).square().mean().backward()
        for part in (model.global_generator, *model.enhancers):
            assert part.first.conv.weight.grad.abs().sum() > 0

    def test_a_frozen_global_generator_gathers_no_gradients(self):
        model = tiny(num_enhancers=1)
        model.global_generator.requires_grad_(False)
        model(layout()).mean().backward()
        assert all(p.grad is None for p in model.global_generator.parameters())
        assert model.enhancers[0].first.conv.weight.grad is not None

    def test_a_style_changes_only_how_class_adaptive_norms_treat_its_class(self):
        model = tiny(style_channels=2)
        planes = torch.cat([layout(), torch.ones(2, 2, 16, 24)], 1)
        with torch.no_grad():
            norm = model.global_generator.up[1].norm
            before = norm(torch.ones(2, 8, 16, 24).cumsum(3), list(_pyramid(planes)))
            norm.table.weight[:, 4:6] = 0.5  # class 0 times both style channels
            after = norm(torch.ones(2, 8, 16, 24).cumsum(3), list(_pyramid(planes)))
        changed = (after - before).abs().amax(1) > 1e-6
        torch.testing.assert_close(changed, planes[:, 0] == 1)

    def test_sizes_and_channels_that_do_not_fit_are_named(self):
        with pytest.raises(ValueError, match="18×24; pad both sides to multiples of 4"):
            tiny()(layout(18, 24))
        with pytest.raises(ValueError, match="sides of at least 8"):
            tiny()(layout(4, 24))
        with pytest.raises(ValueError, match="takes 5; encode it so"):
            tiny(edges=True)(layout())
        with pytest.raises(ValueError, match="2 enhancers need a multiple of 4"):
            tiny(width=6, num_enhancers=2)
        with pytest.raises(ValueError, match="'resize', 'transposed'"):
            tiny(upsampling="shuffle")


class TestFolder:
    def test_a_saved_network_comes_back_and_renders_the_same(self, tmp_path):
        model = tiny(num_enhancers=1).eval()
        model.save_pretrained(tmp_path)
        loaded = Pix2PixHDGenerator.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(layout()), model(layout()), rtol=0, atol=0)

    @pytest.mark.parametrize("num_enhancers", [0, 1])
    def test_a_grown_network_keeps_the_ones_inside(self, num_enhancers):
        small = tiny(num_enhancers=num_enhancers)
        large = small.grow()
        assert large(layout(32, 48)).shape == (2, 3, 32, 48)
        for name, tensor in small.state_dict().items():
            if not name.startswith("head"):
                torch.testing.assert_close(large.state_dict()[name], tensor, rtol=0, atol=0)


def _pyramid(planes: torch.Tensor):
    from generators.blocks import norm_pyramid

    return norm_pyramid(planes, num_classes=4, style_channels=2, levels=3)
