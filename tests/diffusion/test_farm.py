"""Laws of FARM: the published size and cost, any latent size, thin masks survive, and the module can learn."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.losses import farm_loss


def inputs(batch: int = 2, channels: int = 4, height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, a mask with one thin line, timesteps."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((batch, channels, height, width), generator=generator)
    mask = torch.zeros(batch, 1, height, width)
    mask[..., 1, :] = 1
    return sample, mask, torch.arange(batch) * 100


def small(**arguments) -> FARM:
    """A tiny module with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FARM(width=8, time_embed_dim=16, **arguments)


def multiply_adds(model: FARM, sample: Tensor, mask: Tensor, timestep: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(sample, mask, timestep)
    return counter.get_total_flops() / 2


class TestPublished:
    def test_it_has_the_published_number_of_parameters(self):
        model = FARM.published()
        count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        assert sum(count.values()) == 1_863_144
        assert sum(n for name, n in count.items() if name.startswith("encode")) == 1_213_568
        assert sum(n for name, n in count.items() if name.startswith(("time", "to_gate"))) == 210_496

    def test_it_costs_what_the_published_one_costs(self):
        assert multiply_adds(FARM.published(), *inputs(1, 4, 32, 32)) == pytest.approx(0.316e9, rel=0.01)

    def test_it_is_tied_to_its_latent_size(self):
        model = FARM.published().eval()
        assert model(*inputs(2, 4, 32, 32)).shape == (2, 4, 32, 32)
        with pytest.raises(ValueError, match="32×32 only"):
            model(*inputs(2, 4, 16, 16))


class TestForward:
    def test_the_default_costs_a_tenth_of_a_small_denoiser(self):
        assert multiply_adds(FARM(in_channels=32), *inputs(1, 32, 16, 16)) < 70e6

    @pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 16), (32, 32), (5, 7), (17, 30)])
    def test_any_latent_size_comes_back_as_it_went_in(self, size):
        sample, mask, timestep = inputs(2, 4, *size)
        assert small()(sample, mask, timestep).shape == sample.shape

    def test_a_sample_does_not_depend_on_its_batch_even_while_training(self):
        model = small().train()
        sample, mask, timestep = inputs(3)
        together = model(sample, mask, timestep)
        for i in range(3):
            alone = model(sample[i : i + 1], mask[i : i + 1], timestep[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)

    def test_an_empty_mask_gives_finite_values(self):
        sample, mask, timestep = inputs()
        assert small()(sample, torch.zeros_like(mask), timestep).isfinite().all()

    def test_max_resize_keeps_a_line_that_nearest_resize_loses(self):
        _, mask, _ = inputs()
        coarse = torch.zeros(2, 1, 4, 4)
        assert not small(mask_resize="nearest")._resize_mask(mask, coarse).any()
        assert torch.equal(small()._resize_mask(mask, coarse), F.max_pool2d(mask, 4))

    @pytest.mark.parametrize("which", ["mask", "timestep", "class"])
    def test_every_input_matters(self, which):
        model = small(class_embed_dim=6)
        torch.nn.init.normal_(model.class_projection.weight, generator=torch.Generator().manual_seed(1))
        sample, mask, timestep = inputs()
        embedding = torch.ones(2, 6)
        changed = {"mask": mask.flip(2), "timestep": timestep + 500, "class": 2 * embedding}
        given = {"mask": mask, "timestep": timestep, "class": embedding}
        before = model(sample, *given.values())
        after = model(sample, *(given | {which: changed[which]}).values())
        assert (before - after).abs().max() > 1e-4

    def test_an_untrained_class_changes_nothing(self):
        sample, mask, timestep = inputs()
        model = small(class_embed_dim=6)
        assert torch.equal(
            model(sample, mask, timestep, torch.ones(2, 6)), model(sample, mask, timestep, torch.zeros(2, 6))
        )


class TestTraining:
    @pytest.mark.parametrize("arguments", [{}, {"norm": "batch", "mask_resize": "nearest", "skips": False}])
    def test_gradients_reach_every_parameter_and_the_input(self, arguments):
        model = small(class_embed_dim=6, **arguments)
        sample, mask, timestep = inputs()
        sample.requires_grad_()
        embedding = torch.ones(2, 6, requires_grad=True)
        torch.nn.init.normal_(model.class_projection.weight, generator=torch.Generator().manual_seed(1))
        model(sample, mask, timestep, embedding).square().mean().backward()
        for name, parameter in (*model.named_parameters(), ("sample", sample), ("embedding", embedding)):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name

    def test_it_learns_to_rebuild_the_masked_latent(self):
        model = small()
        _, mask, timestep = inputs()
        clean = torch.randn((2, 4, 16, 16), generator=torch.Generator().manual_seed(1))
        noisy = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            loss = farm_loss(model(noisy, mask, timestep), clean, mask=mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.1 * losses[0]


class TestSaving:
    @pytest.mark.parametrize("arguments", [{"class_embed_dim": 6}, {"norm": "batch", "mask_resize": "nearest"}])
    def test_a_loaded_module_gives_the_same_values(self, tmp_path, arguments):
        model = small(**arguments)
        embedding = torch.ones(2, 6) if "class_embed_dim" in arguments else None
        model(*inputs(), embedding)  # moves the running means of batch norm
        model.eval().save_pretrained(tmp_path)
        loaded = FARM.from_pretrained(tmp_path)
        assert not loaded.training
        assert dict(loaded.config).items() >= arguments.items()
        assert torch.equal(loaded(*inputs(), embedding), model(*inputs(), embedding))


class TestErrors:
    def test_shapes_that_do_not_fit_are_refused(self):
        sample, mask, timestep = inputs()
        with pytest.raises(ValueError, match=r"mask is \(2, 1, 8, 8\).*resize the mask"):
            small()(sample, mask[..., :8, :8], timestep)
        with pytest.raises(ValueError, match="at least 4×4"):
            small()(*inputs(2, 4, 3, 8))

    def test_a_class_embedding_must_be_given_when_built_for_and_only_then(self):
        with pytest.raises(ValueError, match=r"class_embedding is missing.*class_embed_dim=6"):
            small(class_embed_dim=6)(*inputs())
        with pytest.raises(ValueError, match=r"class_embedding is given.*class_embed_dim=None"):
            small()(*inputs(), torch.ones(2, 6))

    @pytest.mark.parametrize("arguments", [{"norm": "layer"}, {"mask_resize": "mean"}, {"gate": "none"}])
    def test_unknown_choices_are_refused_by_name(self, arguments):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"{name} is .*choose one of"):
            small(**arguments)
