"""What pix2pixHD is trained for: fool the judge, match its features, look alike (arXiv 1711.11585).

Generator and style encoder are trained together through the generator's losses. In a stage with a new enhancer the
networks inside stay frozen for a while; they get no gradients then, and their optimiser is the one that goes on.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.batches import Batch
from generators.encoding import encode_layout, one_hot
from generators.judges import Judge
from generators.layout_warp import Warp, bend
from generators.loop import Task
from generators.losses import LayerWeights, diversity_loss, perceptual_loss
from generators.perceptual import PerceptualTrunk
from generators.pix2pixhd import Pix2PixHDGenerator
from generators.style import StyleEncoder, encode_styles, find_segments


class StyledGenerator(nn.Module):
    """Generator and style encoder as one module for the optimiser, the average and accelerate.

    encoder: None where styles are absent or noise. style_shrink: the encoder sees pictures so much smaller, the size
    it was trained at.
    """

    def __init__(self, generator: Pix2PixHDGenerator, encoder: StyleEncoder | None, *, style_shrink: int = 1) -> None:
        super().__init__()
        self.generator, self.encoder, self.style_shrink = generator, encoder, style_shrink

    def forward(self, planes: Tensor, image: Tensor, instances: Tensor, styled: Tensor, noise: Tensor | None) -> Tensor:
        """(B, 3, H, W) in [-1, 1]. planes: the layout without styles. styled: (B, 1, H, W), where styles are painted.
        noise: (B, D, H, W) styles in place of the encoder's."""
        styles = noise
        if self.encoder is not None:
            styles = encode_styles(self.encoder, image, instances, shrink=self.style_shrink)
        layout = planes if styles is None else torch.cat([planes, styles * styled], dim=1)
        return self.generator(layout)


def noise_planes(instances: Tensor, style_channels: int, *, generator: torch.Generator) -> Tensor:
    """A vector of N(0, 1) for every instance, painted over it: (B, D, H, W)."""
    segments = find_segments(instances)
    vectors = torch.randn((len(segments.areas), style_channels), generator=generator).to(instances.device)
    return vectors[segments.of_pixel].movedim(-1, 1)


class Pix2PixHDTask(Task):
    """Players: the styled generator, and the discriminator.

    freeze_steps: first steps in which `frozen` gets no gradients. noise_channels: D of noise styles, 0 without.
    noise_draws: of each layout, see `_perceptual`.
    """

    betas = (0.5, 0.999)

    def __init__(
        self,
        drawer: StyledGenerator,
        discriminator: nn.Module,
        judge: Judge,
        trunk: PerceptualTrunk,
        weights: LayerWeights,
        *,
        calibration_steps: int,
        learning_rate: float,
        discriminator_learning_rate: float,
        perceptual_weight: float,
        freeze_steps: int,
        frozen: list[nn.Module],
        noise_channels: int,
        noise_draws: int,
        ignore: int | None,
        warp: Warp,
    ) -> None:
        super().__init__(trunk, weights, calibration_steps=calibration_steps)
        self.players: list[nn.Module] = [drawer, discriminator]
        self.rates = (learning_rate, discriminator_learning_rate)
        self.judge, self.perceptual_weight = judge, perceptual_weight
        self.states += judge.states
        self.freeze_steps, self.frozen, self.noise_channels = freeze_steps, frozen, noise_channels
        self.freezes = bool(frozen) and freeze_steps > 0
        config = drawer.generator.config
        self.num_classes, self.edges = int(config["num_classes"]), bool(config["edges"])
        self.ignore, self.warp = ignore, warp
        # the adversary sees one; without a perceptual loss nothing chooses among several
        self.num_draws = noise_draws if noise_channels and perceptual_weight > 0 else 1

    def start_step(self, step: int) -> None:
        super().start_step(step)
        for part in self.frozen:
            part.requires_grad_(step >= self.freeze_steps)

    def losses(self, batch: Batch, *, step: int, generator: torch.Generator) -> Iterator[Tensor]:
        seen = bend(batch, self.warp, generator=generator)
        # in one pass: wrappers of several processes expect one before each gradient
        fakes = self._draw(seen.repeated(self.num_draws), generator=generator).unflatten(0, (-1, self.num_draws))
        fake, planes = fakes[:, 0], self._planes(batch)
        classes = one_hot(batch.labels, num_classes=self.num_classes, ignore=self.ignore)
        discriminator = self.players[1]

        with torch.no_grad():
            target = self.trunk(batch.image)
        features = self.trunk(fakes)
        self.calibrate(features, [t[:, None].expand_as(f) for t, f in zip(target, features, strict=True)], step=step)
        discriminator.requires_grad_(False)
        terms = self.judge.losses_of_generator(discriminator, planes, classes, batch, fake)
        terms["perceptual"] = self.perceptual_weight * self._perceptual(features, target, classes)
        self.shown = {name: value.detach() for name, value in terms.items()}
        self.shown["l1"] = F.l1_loss(fake.detach(), batch.image)
        yield torch.stack(list(terms.values())).sum()

        discriminator.requires_grad_(True)
        loss = self.judge.own_loss(discriminator, planes, classes, batch, fake.detach(), generator=generator)
        self.shown["discriminator"] = loss.detach()
        yield loss

    def _perceptual(self, features: list[Tensor], target: list[Tensor], classes: Tensor) -> Tensor:
        """Of the one draw, or for each class of the one that comes nearest, which gives noise its looks: IMLE.

        Drawn towards every photo alike, all noise would come to look like their mean (Li et al. 2019, arXiv
        1811.12373). features: L maps (B, k, C_l, h_l, w_l). target: L maps (B, C_l, h_l, w_l).
        """
        weights = self.weights.weights
        if self.num_draws == 1:
            return perceptual_loss([f[:, 0] for f in features], target, weights=weights)
        return diversity_loss(features, target, classes, weights=weights, mean_weight=0.0, class_norm="area").loss

    def samples(self, batch: Batch) -> list[Tensor]:
        """As the real instances look, or with three lots of noise."""
        lots = range(3) if self.noise_channels else range(1)
        return [self._draw(batch, generator=torch.Generator().manual_seed(lot)) for lot in lots]

    def _draw(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        noise = None
        if self.noise_channels:
            noise = noise_planes(batch.instances, self.noise_channels, generator=generator)
        planes = self._planes(batch)
        if batch.context is not None:
            planes = torch.cat([planes, batch.context], dim=1)
        return batch.composite(self.players[0](planes, batch.image, batch.instances, batch.styled, noise))

    def _planes(self, batch: Batch) -> Tensor:
        """Classes and edges: what the discriminators see, and the generator before its context and styles."""
        instances = batch.instances if self.edges else None
        return encode_layout(batch.labels, instances, num_classes=self.num_classes, ignore=self.ignore)
