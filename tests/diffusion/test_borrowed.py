"""Laws of borrowed samplers: unmasked they are diffusers' own loops, masked they are AIAS where AIAS is the same."""

import pytest
import torch
from borrowed import BorrowedScheduler
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from torch import Tensor

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.base import latent_mask
from fastsynth.diffusion.pipeline import FASTPipeline

LDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PLAIN = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}, {}),
    "ddim 0": (DDIMScheduler, {"clip_sample": False}, {"eta": 0.0}),
    "ddim 1": (DDIMScheduler, {"clip_sample": False}, {"eta": 1.0}),
    "plms": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True}, {}),
    "dpm++ 2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}, {}),
    "sde-dpm++ 2m": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, {}),
}
CALLS = 11
# diffusers hands a tensor to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def randn(seed: int, shape=(2, 4, 4, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guess_noise(x: Tensor, t: int | Tensor) -> Tensor:
    """A curved ε, so that orders and timesteps matter."""
    return torch.tanh(x + int(t) / 500) - 0.3 * x.flip(1)


def two_masks() -> Tensor:
    """A part of the first picture, a line of the second: (2, 1, 32, 32)."""
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, 10:20, 9:22] = 1
    masks[1, :, 5, 3:] = 1
    return masks


def sample(pipeline: FASTPipeline, scheduler: AIASScheduler, *, calls: int = CALLS, **arguments) -> Tensor:
    """(2, 4, 4, 4) latents, drawn into the background `randn(0)`."""
    pipeline.scheduler = scheduler
    defaults = {"guess": None, "start": "noise", "strength": 1.0, "farm": "input", "background_mode": "x0_blend"}
    return pipeline.sample(
        randn(0), two_masks(), torch.tensor([0, 1]), num_inference_steps=calls,
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], **(defaults | arguments),
    )  # fmt: skip


@pytest.mark.parametrize("kind", list(PLAIN))
class TestEverySampler:
    def test_without_a_mask_it_is_the_loop_of_diffusers(self, kind):
        """On diffusers' own "trailing" timesteps."""
        scheduler_class, settings, arguments = PLAIN[kind]
        theirs = scheduler_class(**LDM, timestep_spacing="trailing", **settings)
        theirs.set_timesteps(10)
        x = randn(1)
        if kind != "plms":
            arguments = arguments | {"generator": torch.Generator().manual_seed(2)}
        for t in theirs.timesteps:
            x = theirs.step(guess_noise(x, t), t, x, **arguments).prev_sample

        ours = BorrowedScheduler(kind, AIASScheduler(**LDM), spacing="uniform")
        ours.set_timesteps(11 if kind == "plms" else 10)
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
        y, generator = randn(1), torch.Generator().manual_seed(2)
        for t in ours.timesteps:
            y = ours.step_original(ours.predict_original(guess_noise(y, t), t, y), t, y, generator)
        torch.testing.assert_close(y, x, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("strength", [1.0, 0.5])
    def test_it_calls_the_unet_as_often_as_asked_and_meets_the_background(self, pipeline, kind, strength):
        calls = []
        pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
        scheduler = BorrowedScheduler(kind, pipeline.scheduler, spacing="uniform")
        latents = sample(pipeline, scheduler, start="exemplar", guess=randn(3), strength=strength)
        assert len(calls) == CALLS
        around = (latent_mask(two_masks()) == 0).expand_as(latents)
        torch.testing.assert_close(latents[around], randn(0)[around], rtol=0, atol=1e-4)
        assert ((latents - randn(0)).abs()[~around] > 1e-3).all()
        first = int(scheduler.timesteps[0]) + 1
        assert abs(first - 1000 * strength) < 1000 * strength / CALLS

    def test_the_same_seeds_draw_the_same_latents_again(self, pipeline, kind):
        scheduler = BorrowedScheduler(kind, pipeline.scheduler, spacing="uniform")
        assert torch.equal(sample(pipeline, scheduler), sample(pipeline, scheduler))


class TestAgainstAIAS:
    """Under a mask, with FARM, from the same seeds."""

    @pytest.mark.parametrize(("kind", "order"), [("ddpm", 1), ("sde-dpm++ 2m", 2)])
    @pytest.mark.parametrize("arguments", [{}, {"farm": "output", "background_mode": "paste_all"}])
    def test_on_log_snr_the_stochastic_ones_are_aias(self, pipeline, kind, order, arguments):
        levels = pipeline.scheduler
        uncapped = {"solver_order": order, "extrapolation_cap": 100.0}
        ours = sample(pipeline, AIASScheduler.from_config(levels.config, **uncapped), **arguments)
        theirs = sample(pipeline, BorrowedScheduler(kind, levels, spacing="logsnr"), **arguments)
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)

    def test_ddim_with_eta_one_is_ddpm_and_with_eta_zero_it_is_not(self, pipeline):
        levels = pipeline.scheduler
        drawn = {
            kind: sample(pipeline, BorrowedScheduler(kind, levels, spacing="uniform"))
            for kind in ("ddpm", "ddim 0", "ddim 1")
        }
        torch.testing.assert_close(drawn["ddim 1"], drawn["ddpm"], rtol=1e-3, atol=1e-3)
        assert (drawn["ddim 0"] - drawn["ddpm"]).abs().max() > 0.1


class TestErrors:
    def test_trajectories_that_diffusers_does_not_have_are_refused(self):
        levels = AIASScheduler(**LDM)
        with pytest.raises(ValueError, match="steps of one length; spacing is logsnr, use uniform"):
            BorrowedScheduler("ddim 0", levels, spacing="logsnr")
        with pytest.raises(ValueError, match="2 calls from t = 1000 do not fit; use 3 to 1000 calls"):
            BorrowedScheduler("plms", levels, spacing="uniform").set_timesteps(2)
        with pytest.raises(ValueError, match=r"2 calls from t = 800 are steps of 400.*another strength"):
            BorrowedScheduler("ddim 1", levels, spacing="uniform").set_timesteps(2, strength=0.8)
