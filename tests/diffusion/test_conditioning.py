"""Laws of the defect tokens: one entry per pair and per normal surface, the same start every time, kept on disk."""

import pytest
import torch

from fastsynth.diffusion.conditioning import DefectTokens

PAIRS = [["tile", "crack"], ["tile", "blowhole"], ["wood", "hole"]]


def build() -> DefectTokens:
    return DefectTokens(PAIRS, num_tokens=3, cross_attention_dim=16)


class TestIndex:
    def test_pairs_keep_their_order_and_normals_follow(self):
        tokens = build()
        assert [tokens.index(*pair) for pair in PAIRS] == [0, 1, 2]
        assert [tokens.index("tile", "good"), tokens.index("wood", "good")] == [3, 4]

    def test_every_row_knows_the_normal_surface_of_its_category(self):
        assert build().normal(torch.tensor([0, 2, 1, 4])).tolist() == [3, 4, 3, 4]

    def test_a_listed_normal_entry_is_not_doubled(self):
        tokens = DefectTokens([["tile", "good"], ["tile", "crack"]], num_tokens=1, cross_attention_dim=4)
        assert tokens.index("tile", "good") == 0
        assert len(tokens.tokens) == 2

    def test_an_unknown_pair_is_refused_with_the_closest_or_all_known(self):
        with pytest.raises(ValueError, match=r"not trained on tile/blowhol; did you mean tile/blowhole\?"):
            build().index("tile", "blowhol")
        with pytest.raises(ValueError, match="known pairs: tile/crack, tile/blowhole, wood/hole, tile/good, wood/good"):
            build().index("xyz", "qqq")

    @pytest.mark.parametrize("pairs", [[], [["tile", "crack"], ["tile", "crack"]], [["tile"]]])
    def test_bad_pairs_are_refused(self, pairs):
        with pytest.raises(ValueError, match=r"pass each \[category, defect\] once"):
            DefectTokens(pairs)


class TestTokens:
    def test_shapes(self):
        indices = torch.tensor([2, 0, 2, 4])
        assert build()(indices).shape == (4, 3, 16)
        assert build().pooled(indices).shape == (4, 16)

    def test_pooled_is_the_mean_token(self):
        indices = torch.tensor([1, 3])
        torch.testing.assert_close(build().pooled(indices), build()(indices).mean(dim=1))

    def test_pairs_start_far_apart(self):
        tokens = build().tokens.flatten(1)
        distance = torch.cdist(tokens, tokens) + 99 * torch.eye(len(tokens))
        assert distance.min() > 1

    def test_the_start_is_the_same_every_time_and_reset_draws_another(self):
        assert torch.equal(build().tokens, build().tokens)
        other, again = build(), build()
        other.reset(torch.Generator().manual_seed(5))
        again.reset(torch.Generator().manual_seed(5))
        assert torch.equal(other.tokens, again.tokens)
        assert not torch.equal(other.tokens, build().tokens)

    def test_building_leaves_the_global_random_state_alone(self):
        before = torch.get_rng_state()
        build()
        assert torch.equal(before, torch.get_rng_state())

    def test_only_the_rows_in_use_get_a_gradient(self):
        tokens = build()
        (tokens(torch.tensor([1])).sum() + tokens.pooled(torch.tensor([3])).sum()).backward()
        assert tokens.tokens.grad.flatten(1).any(dim=1).tolist() == [False, True, False, True, False]


def test_loaded_tokens_are_the_saved_ones(tmp_path):
    tokens = build()
    tokens.reset(torch.Generator().manual_seed(7))
    tokens.save_pretrained(tmp_path)
    loaded = DefectTokens.from_pretrained(tmp_path)
    assert torch.equal(loaded.tokens, tokens.tokens)
    assert loaded.entries == tokens.entries
    assert [list(pair) for pair in loaded.config["pairs"]] == PAIRS
