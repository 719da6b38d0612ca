"""Trunks: torchvision's own VGG-19 as oracle, shapes, frozen weights, gradients to the picture."""

import pytest
import torch
from torch import nn

from generators.perceptual import PerceptualTrunk, build_trunk, torchvision_vgg19


def picture(size: int = 32, *, channels: int = 3) -> torch.Tensor:
    return torch.rand((2, channels, size, size), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """torchvision's network, random weights, without its classifier."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Module()
        network.features = make_layers(cfgs["E"])
        for part in network.modules():
            if isinstance(part, nn.Conv2d):  # keeps deep activations away from 0
                nn.init.kaiming_normal_(part.weight)
        return network.eval()


class TestVGG:
    @pytest.mark.parametrize(("recipe", "positions"), [("pix2pixhd", (1, 6, 11, 20, 29)), ("crn", (3, 8, 13, 22, 31))])
    def test_layers_are_those_of_torchvision(self, published, recipe, positions):
        trunk = PerceptualTrunk(torchvision_vgg19(published.state_dict(), recipe=recipe), with_image=False)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x, wanted = ((picture() + 1) / 2 - mean) / std, []
        with torch.no_grad():
            for i, layer in enumerate(published.features[: positions[-1] + 1]):
                if isinstance(layer, nn.MaxPool2d) and recipe == "crn":
                    layer = nn.AvgPool2d(2)
                x = nn.functional.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
                if i in positions:
                    wanted.append(x)
            for found, want in zip(trunk(picture()), wanted, strict=True):
                torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)

    def test_random_weights_depend_on_the_seed_alone(self):
        first, again, other = (build_trunk("random", recipe="crn", seed=s)(picture())[-1] for s in (1, 1, 2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert not torch.allclose(first, other)

    def test_random_layers_keep_the_size_of_their_activations(self):
        sizes = [layer.square().mean().sqrt() for layer in build_trunk("random", recipe="pix2pixhd")(picture(64))]
        assert max(sizes) / min(sizes) < 10


@pytest.mark.parametrize("kind", ["random", "offline"])
class TestTrunks:
    def test_crn_reads_the_picture_first_and_then_five_layers(self, kind):
        layers = build_trunk(kind, recipe="crn")(picture())
        torch.testing.assert_close(layers[0], picture(), rtol=0, atol=0)
        finest = 32 if kind == "random" else 16
        assert [layer.shape[-1] for layer in layers[1:]] == [finest // 2**i for i in range(5)]
        assert len(build_trunk(kind, recipe="pix2pixhd")(picture())) == 5

    def test_many_outputs_are_seen_one_by_one(self, kind):
        trunk = build_trunk(kind, recipe="crn")
        outputs = torch.stack([picture(), -picture(), picture() / 2], dim=1)
        for together, apart in zip(trunk(outputs), trunk(outputs[:, 1]), strict=True):
            torch.testing.assert_close(together[:, 1], apart, atol=1e-4, rtol=1e-4)

    def test_grey_is_seen_as_colour(self, kind):
        trunk, grey = build_trunk(kind, recipe="pix2pixhd"), picture(channels=1)
        torch.testing.assert_close(trunk(grey)[-1], trunk(grey.repeat(1, 3, 1, 1))[-1])

    def test_gradients_flow_to_the_picture_and_nowhere_else(self, kind):
        trunk, x = build_trunk(kind, recipe="crn"), picture().requires_grad_()
        trunk(x)[-1].square().sum().backward()
        assert x.grad.abs().sum() > 0
        assert all(p.grad is None for p in trunk.parameters())
