"""CRN: the published parameter counts, the published arithmetic, any size and aspect, growing."""

import pytest
import torch
from torch.nn import functional as F

from generators.crn import CRN
from generators.encoding import one_hot


def tiny(**arguments) -> CRN:
    """Three modules, so 4×8 becomes 16×32; the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CRN(4, **{"widths": (12, 8, 6), "num_outputs": 2, **arguments})


def layout(height: int = 16, width: int = 32, *, batch: int = 2, channels: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return one_hot(torch.randint(4, (batch, height, width), generator=generator), num_classes=channels)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


class TestSize:
    @pytest.mark.parametrize(("height", "count"), [(256, 97_875_483), (512, 98_622_851), (1024, 98_674_531)])
    def test_published_networks_have_the_published_size(self, height, count):
        with torch.device("meta"):
            assert parameters(CRN.published(height)) == count

    def test_modules_have_the_published_sizes(self):
        with torch.device("meta"):
            found = [parameters(stage) for stage in CRN.published(1024).stages]
        assert found == [9_625_600, *[19_062_784] * 4, 7_172_096, 4_812_800, 760_832, 51_968]

    @pytest.mark.parametrize(
        ("widths", "count"),
        [((32, 32, 16, 16), 44_889), ((64, 64, 48, 32, 24), 207_793), ((128, 128, 128, 96, 64, 48, 32), 1_130_889)],
    )
    def test_small_networks_follow_the_formula(self, widths, count):
        with torch.device("meta"):
            assert parameters(CRN(6, widths=widths, norm="joint")) == count


class TestForward:
    @pytest.mark.parametrize("size", [(16, 32), (32, 16), (16, 16), (20, 44), (64, 64)])
    def test_any_base_and_aspect(self, size):
        for norm in ("joint", "class_adaptive"):
            assert tiny(norm=norm)(layout(*size)).shape == (2, 2, 3, *size)

    def test_it_is_the_published_arithmetic(self):
        """Written out once more with plain functions: soft layouts, features first, one statistic per image."""
        model, x = tiny(norm="joint"), layout()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # away from 1 and 0, or a mix-up of gain and offset would not show
                    parameter.add_(torch.linspace(-0.5, 0.5, len(parameter)))
        state = model.state_dict()

        def block(y: torch.Tensor, name: str, norm: str) -> torch.Tensor:
            y = F.conv2d(y, state[f"{name}.weight"], padding=1)
            mean, variance = y.mean((1, 2, 3), keepdim=True), y.var((1, 2, 3), correction=0, keepdim=True)
            gain, offset = (state[f"{norm}.norm.{part}"][:, None, None] for part in ("weight", "bias"))
            return F.leaky_relu((y - mean) / (variance + 1e-12).sqrt() * gain + offset, 0.2)

        features = torch.zeros(2, 0, 4, 8)
        for i, size in enumerate([(4, 8), (8, 16), (16, 32)]):
            if i:
                features = F.interpolate(features, size=size, mode="bilinear", align_corners=True)
            soft = x.unflatten(3, (size[1], -1)).unflatten(2, (size[0], -1)).mean((3, 5))
            features = block(torch.cat([features, soft], 1), f"stages.{i}.conv1", f"stages.{i}.norm1")
            features = block(features, f"stages.{i}.conv2", f"stages.{i}.norm2")
        wanted = F.conv2d(features, state["head.weight"], state["head.bias"])
        torch.testing.assert_close(model(x), wanted.view(2, 3, 2, 16, 32).transpose(1, 2), atol=1e-5, rtol=1e-4)

    def test_a_sample_does_not_depend_on_its_batch(self):
        model, x = tiny(), layout()
        torch.testing.assert_close(model(x)[1:], model(x[1:]), atol=1e-5, rtol=1e-4)

    def test_output_is_not_squashed(self):
        model = tiny()
        torch.nn.init.constant_(model.head.bias, 3.0)
        assert model(layout()).max() > 1

    def test_new_class_adaptive_norms_are_plain_norms_and_then_listen_to_the_class(self):
        plain, adaptive = tiny(norm="joint"), tiny(norm="class_adaptive")
        adaptive.load_state_dict({k: v for k, v in plain.state_dict().items() if "norm" not in k}, strict=False)
        torch.testing.assert_close(adaptive(layout()), plain(layout()), atol=1e-5, rtol=1e-4)
        table = adaptive.stages[2].norm2.table
        with torch.no_grad():
            table.weight[:, 1] = 1.0  # gain and offset of class 1, in the last norm before the head
        changed = (adaptive(layout()) - plain(layout())).abs().amax((1, 2))
        torch.testing.assert_close((changed > 1e-4).float(), layout()[:, 1])

    def test_sizes_and_channels_that_do_not_fit_are_named(self):
        with pytest.raises(ValueError, match="pad both sides to multiples of 4"):
            tiny()(layout(18, 32))
        with pytest.raises(ValueError, match="sides of at least 16"):
            tiny()(layout(8, 32))
        with pytest.raises(ValueError, match="layout has 5 channels, this CRN takes 4"):
            tiny()(layout(channels=5))
        with pytest.raises(ValueError, match="'joint', 'class_adaptive'"):
            tiny(norm="batch")


class TestFolder:
    @pytest.mark.parametrize("norm", ["joint", "class_adaptive"])
    def test_a_saved_network_comes_back_and_renders_the_same(self, norm, tmp_path):
        model = tiny(norm=norm, edges=True, style_channels=2).eval()
        model.save_pretrained(tmp_path)
        x = torch.cat([layout(), torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(2))], 1)
        torch.testing.assert_close(CRN.from_pretrained(tmp_path)(x), model(x), rtol=0, atol=0)

    @pytest.mark.parametrize("norm", ["joint", "class_adaptive"])
    def test_a_grown_network_keeps_its_modules(self, norm):
        small = tiny(norm=norm)
        large = small.grow(5, num_outputs=1)
        assert large(layout(32, 64)).shape == (2, 1, 3, 32, 64)
        for old, new in zip(small.stages, large.stages, strict=False):
            for name, tensor in old.state_dict().items():
                torch.testing.assert_close(new.state_dict()[name], tensor, rtol=0, atol=0)
        # the first three modules see the same shares, whichever size they come from
        coarse = F.avg_pool2d(layout(32, 64), 2)
        seen = []
        for model, x in ((small, coarse), (large, layout(32, 64))):
            model.stages[2].register_forward_hook(lambda module, inputs, output: seen.append(output))
            model(x)
        torch.testing.assert_close(seen[0], seen[1])
