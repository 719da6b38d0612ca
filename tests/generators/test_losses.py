"""Losses of the renderers: hand-made cases, the k = 1 identity, who receives gradients, reductions."""

import math

import pytest
import torch

from generators.encoding import one_hot
from generators.losses import (
    LayerWeights,
    discriminator_loss,
    diversity_loss,
    feature_matching_loss,
    generator_loss,
    layer_terms,
    perceptual_loss,
    win_shares,
)

SIZES = ((3, 16), (5, 8), (7, 4))
WEIGHTS = torch.tensor([1.0, 0.5, 2.0])


def maps(seed: int, lead: tuple[int, ...]) -> list[torch.Tensor]:
    """Three layers of features, each half the size of the one before."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((*lead, channels, size, size), generator=generator) for channels, size in SIZES]


def planes(batch: int = 2, classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return one_hot(torch.randint(classes, (batch, 16, 16), generator=generator), num_classes=classes)


def halves() -> torch.Tensor:
    """Class 0 on the left three quarters, class 1 on the right quarter, class 2 nowhere; 4×8 pixels."""
    labels = torch.zeros(1, 4, 8, dtype=torch.long)
    labels[..., 6:] = 1
    return one_hot(labels, num_classes=3)


def two_heads() -> tuple[torch.Tensor, torch.Tensor]:
    """Output 0 is off by 1 left and 4 right, output 1 by 2 left and 3 right; the target is 0."""
    target = torch.zeros(1, 1, 4, 8)
    outputs = torch.tensor([[1.0] * 6 + [4.0] * 2, [2.0] * 6 + [3.0] * 2]).view(1, 2, 1, 1, 8).expand(-1, -1, -1, 4, -1)
    return outputs.clone().requires_grad_(), target


class TestDiversity:
    @pytest.mark.parametrize("class_norm", ["none"])
    @pytest.mark.parametrize("mean_weight", [0.0, 0.3])
    def test_with_one_output_it_is_the_perceptual_loss(self, class_norm, mean_weight):
        found, wanted = maps(0, (2, 1)), maps(1, (2,))
        loss = diversity_loss(
            found, wanted, planes(), weights=WEIGHTS, mean_weight=mean_weight, class_norm=class_norm
        ).loss
        simple = perceptual_loss([layer[:, 0] for layer in found], wanted, weights=WEIGHTS)
        torch.testing.assert_close(loss, simple)

    def test_the_best_output_is_chosen_per_class(self):
        outputs, target = two_heads()
        found = diversity_loss([outputs], [target], halves(), weights=torch.ones(1), mean_weight=0.25)
        best = 1 * 0.75 + 3 * 0.25
        mean = 1.5 * 0.75 + 3.5 * 0.25
        assert found.loss.item() == pytest.approx(0.75 * best + 0.25 * mean)
        assert found.wins.tolist() == [[1, 0, 0], [0, 1, 0]]

    def test_layers_are_summed_before_the_choice(self):
        """Output 0 wins the first layer, output 1 wins both together."""
        first = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1).expand(-1, -1, -1, 4, 4)
        second = torch.tensor([5.0, 1.0]).view(1, 2, 1, 1, 1).expand(-1, -1, -1, 2, 2)
        everything = torch.ones(1, 1, 4, 4)
        targets = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
        found = diversity_loss([first, second], targets, everything, weights=torch.ones(2), mean_weight=0.0)
        assert found.loss.item() == pytest.approx(3)
        assert found.wins.tolist() == [[0], [1]]

    def test_without_the_mean_term_only_the_winner_learns(self):
        outputs, target = two_heads()
        diversity_loss([outputs], [target], halves(), weights=torch.ones(1), mean_weight=0.0).loss.backward()
        touched = outputs.grad[0, :, 0].abs() > 0
        left = torch.arange(8) < 6
        torch.testing.assert_close(touched, torch.stack([left, ~left])[:, None].expand(-1, 4, -1))

    def test_with_the_mean_term_every_output_learns(self):
        outputs, target = two_heads()
        diversity_loss([outputs], [target], halves(), weights=torch.ones(1), mean_weight=0.01).loss.backward()
        assert (outputs.grad.abs() > 0).all()

    @pytest.mark.parametrize(
        ("class_norm", "factors"),
        [
            ("none", (1, 1)),
            ("area", (0.5 / 0.75, 0.5 / 0.25)),
            ("sqrt_area", tuple(1 / math.sqrt(s) / (math.sqrt(0.75) + math.sqrt(0.25)) for s in (0.75, 0.25))),
        ],
    )
    def test_what_a_class_counts(self, class_norm, factors):
        outputs, target = two_heads()
        loss = diversity_loss(
            [outputs], [target], halves(), weights=torch.ones(1), mean_weight=0.0, class_norm=class_norm
        ).loss
        assert loss.item() == pytest.approx(0.75 * factors[0] * 1 + 0.25 * factors[1] * 3)

    def test_an_error_of_the_same_size_everywhere_costs_the_same_whatever_counts(self):
        target = [torch.zeros(2, 3, 16, 16)]
        found = [torch.full((2, 2, 3, 16, 16), 0.7)]
        for class_norm in ("none", "area", "sqrt_area"):
            loss = diversity_loss(found, target, planes(), weights=torch.ones(1), class_norm=class_norm).loss
            assert loss.item() == pytest.approx(0.7, rel=1e-5)

    def test_win_shares_sum_to_one_for_classes_that_were_seen(self):
        found = diversity_loss(maps(0, (2, 3)), maps(1, (2,)), planes(), weights=WEIGHTS)
        torch.testing.assert_close(win_shares(found.wins).sum(0), torch.ones(4))
        assert win_shares(torch.tensor([[2, 0], [1, 0]]))[:, 1].isnan().all()


class TestLayerWeights:
    def test_frozen_weights_make_all_terms_equal_to_the_first(self):
        weights = LayerWeights(3)
        terms = [layer_terms(maps(i, (2,)), maps(i + 10, (2,))) * torch.tensor([1.0, 50.0, 0.01]) for i in range(5)]
        for term in terms:
            weights.observe(term)
        torch.testing.assert_close(weights.weights, torch.ones(3))
        weights.freeze()
        means = torch.stack(terms).mean(0)
        torch.testing.assert_close(weights.weights * means, means[0].expand(3))

    def test_beside_other_losses_the_terms_are_together_as_large_as_asked_whatever_their_scale(self):
        weights = LayerWeights(3, total_loss=1.0)
        terms = [layer_terms(maps(i, (2,)), maps(i + 10, (2,))) * torch.tensor([300.0, 5.0, 0.01]) for i in range(5)]
        for number, term in enumerate(terms, start=1):
            weights.observe(term)
            torch.testing.assert_close(weights.weights * torch.stack(terms[:number]).mean(0), torch.full((3,), 1 / 3))
        found = weights.weights.clone()
        weights.freeze()
        assert torch.equal(weights.weights, found)

    def test_they_travel_in_the_state_dict(self):
        weights, other = LayerWeights(3), LayerWeights(3)
        weights.observe(torch.tensor([1.0, 2.0, 4.0]))
        weights.freeze()
        other.load_state_dict(weights.state_dict())
        assert other.weights.tolist() == [1, 0.5, 0.25]
        other.observe(torch.tensor([1.0, 2.0, 12.0]))
        other.freeze()
        assert other.weights.tolist() == [1, 0.5, 0.125]

    def test_nothing_observed_is_an_error(self):
        with pytest.raises(ValueError, match="observe renders first"):
            LayerWeights(2).freeze()


def judged(*logits: float) -> list[list[torch.Tensor]]:
    """One scale per logit, two maps before it."""
    return [
        [torch.full((1, 2, 4, 4), value), torch.full((1, 2, 2, 2), 3 * value), torch.full((1, 1, 2, 2), value)]
        for value in logits
    ]


class TestAdversaries:
    def test_lsgan_is_squared_and_summed_over_scales(self):
        found = discriminator_loss(judged(0.5, 2.0), judged(0.1, -1.0), adversary="lsgan")
        assert found.item() == pytest.approx(((0.25 + 0.01) + (1 + 1)) / 2)
        assert generator_loss(judged(0.5, 2.0), adversary="lsgan").item() == pytest.approx(0.25 + 1)

    def test_hinge_stops_at_the_margin_and_is_averaged_over_scales(self):
        found = discriminator_loss(judged(0.5, 2.0), judged(0.1, -3.0), adversary="hinge")
        assert found.item() == pytest.approx((0.5 + 1.1 + 0 + 0) / 2)
        assert generator_loss(judged(0.5, 2.0), adversary="hinge").item() == pytest.approx(-1.25)

    def test_feature_matching_leaves_out_the_logits(self):
        found = feature_matching_loss(judged(1.0, 1.0), judged(1.5, 1.0))
        assert found.item() == pytest.approx((0.5 + 1.5) * 4 / 2 / 2)

    def test_feature_matching_pulls_the_fake_only(self):
        real, fake = judged(1.0)[0], judged(2.0)[0]
        for layer in (*real, *fake):
            layer.requires_grad_()
        feature_matching_loss([real], [fake]).backward()
        assert all(layer.grad is None for layer in real)
        assert [layer.grad is not None for layer in fake] == [True, True, False]
