"""Laws of AIAS. Oracles: loops over single steps, DDIM, SDE-DPM-Solver++, diffusers' schedulers, Gaussian data."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from fastsynth.diffusion.aias import AIASScheduler, half_log_snr, posterior, published_kernel

LDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETA = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETA).cumprod(0)])
SHAPE = (2, 3, 4, 4)


def random_segments(n: int = 200, shortest: int = 1) -> tuple[Tensor, Tensor]:
    """Upper and lower ends with 1 ≤ s < t ≤ 1000, t - s ≥ shortest."""
    generator = torch.Generator().manual_seed(0)
    s = torch.randint(1, 1001 - shortest, (n,), generator=generator)
    room = 1000 - s - shortest + 1
    return s + shortest + (torch.rand(n, generator=generator) * room).long(), s


def single_step(i: int) -> tuple[Tensor, Tensor, Tensor]:
    """B_i, A_i, σ_i² of the DDPM posterior, as every paper prints them."""
    beta, before, after = BETA[i - 1], ALPHA_BAR[i - 1], ALPHA_BAR[i]
    b = (1 - beta).sqrt() * (1 - before) / (1 - after)
    return b, before.sqrt() * beta / (1 - after), beta * (1 - before) / (1 - after)


def randn(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestKernel:
    def test_composing_single_steps_gives_the_closed_form(self):
        for t, s in zip(*map(Tensor.tolist, random_segments(40)), strict=True):
            a, b, v = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
            for i in range(t, s, -1):
                step_a, step_b, step_v = single_step(i)
                a, b, v = step_a * a, step_a * b + step_b, step_a**2 * v + step_v
            torch.testing.assert_close(
                torch.stack(posterior(ALPHA_BAR[t], ALPHA_BAR[s])), torch.stack([a, b, v]), rtol=1e-9, atol=1e-12
            )

    def test_it_is_ddim_with_eta_one(self):
        t, s = random_segments()
        a, b, v = posterior(ALPHA_BAR[t], ALPHA_BAR[s])
        direction = ((1 - ALPHA_BAR[s] - v) / (1 - ALPHA_BAR[t])).sqrt()
        torch.testing.assert_close(a, direction, rtol=1e-9, atol=0)
        torch.testing.assert_close(b, ALPHA_BAR[s].sqrt() - direction * ALPHA_BAR[t].sqrt(), rtol=1e-9, atol=1e-12)

    def test_it_is_first_order_sde_dpm_solver(self):
        t, s = random_segments()
        a, b, v = posterior(ALPHA_BAR[t], ALPHA_BAR[s])
        h = half_log_snr(ALPHA_BAR[s]) - half_log_snr(ALPHA_BAR[t])
        shrink = -torch.expm1(-2 * h)
        sigma_t, sigma_s = (1 - ALPHA_BAR[t]).sqrt(), (1 - ALPHA_BAR[s]).sqrt()
        torch.testing.assert_close(a, sigma_s / sigma_t * (-h).exp(), rtol=1e-9, atol=0)
        torch.testing.assert_close(b, ALPHA_BAR[s].sqrt() * shrink, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(v, sigma_s**2 * shrink, rtol=1e-9, atol=1e-12)

    def test_two_segments_in_a_row_are_one(self):
        t, s = random_segments(shortest=2)
        m = (t + s) // 2
        a1, b1, v1 = posterior(ALPHA_BAR[t], ALPHA_BAR[m])
        a2, b2, v2 = posterior(ALPHA_BAR[m], ALPHA_BAR[s])
        chained = torch.stack([a2 * a1, a2 * b1 + b2, a2**2 * v1 + v2])
        torch.testing.assert_close(chained, torch.stack(posterior(ALPHA_BAR[t], ALPHA_BAR[s])), rtol=1e-9, atol=1e-12)

    def test_it_keeps_mean_and_variance_of_the_marginals(self):
        t, s = random_segments()
        a, b, v = posterior(ALPHA_BAR[t], ALPHA_BAR[s])
        torch.testing.assert_close(a * ALPHA_BAR[t].sqrt() + b, ALPHA_BAR[s].sqrt(), rtol=1e-12, atol=0)
        torch.testing.assert_close(a**2 * (1 - ALPHA_BAR[t]) + v, 1 - ALPHA_BAR[s], rtol=1e-12, atol=0)

    def test_the_clean_end_returns_x_0(self):
        t = torch.arange(1, 1001)
        a, b, v = posterior(ALPHA_BAR[t], torch.ones_like(ALPHA_BAR[t]))
        assert (a == 0).all()
        assert (b == 1).all()
        assert (v == 0).all()

    def test_a_one_step_segment_is_the_ddpm_step(self):
        for i in (1, 2, 500, 1000):
            torch.testing.assert_close(
                torch.stack(posterior(ALPHA_BAR[i], ALPHA_BAR[i - 1])), torch.stack(single_step(i)), rtol=1e-9, atol=0
            )

    def test_values_of_the_segment_500_to_250(self):
        a, b, v = posterior(ALPHA_BAR[500], ALPHA_BAR[250])
        assert [round(float(x), 4) for x in (a, b, v)] == [0.2881, 0.67, 0.2646]


class TestPublishedKernel:
    def test_prefix_sums_equal_the_printed_sums(self):
        for t, s in zip(*map(Tensor.tolist, random_segments(40)), strict=True):
            b = v = torch.zeros((), dtype=torch.float64)
            later = torch.ones((), dtype=torch.float64)  # Π_{j = i+1 … t} B_j
            for i in range(t, s, -1):
                step_a, step_b, step_v = single_step(i)
                b, v, later = b + step_b * later, v + step_v * later**2, later * step_a
            got = published_kernel(ALPHA_BAR, torch.tensor([t]), torch.tensor([s]))
            torch.testing.assert_close(torch.cat(got), torch.stack([later, b, v]), rtol=1e-9, atol=1e-12)

    def test_it_is_exact_for_one_step_and_noisier_beyond(self):
        t, s = random_segments(shortest=2)
        _, _, v = published_kernel(ALPHA_BAR, t, s)
        assert (v > posterior(ALPHA_BAR[t], ALPHA_BAR[s])[2] * (1 + 1e-7)).all()
        one = published_kernel(ALPHA_BAR, s + 1, s)
        torch.testing.assert_close(
            torch.stack(one), torch.stack(posterior(ALPHA_BAR[s + 1], ALPHA_BAR[s])), rtol=1e-7, atol=1e-12
        )

    def test_only_the_published_scheduler_uses_it(self):
        exact, published = (AIASScheduler(**LDM, kernel=kernel, solver_order=1) for kernel in ("exact", "published"))
        for scheduler in (exact, published):
            scheduler.set_timesteps(8)
        x, x_0 = randn(0, torch.float64), randn(1, torch.float64)
        t = exact.timesteps[3]
        steps = [s.step_original(x_0, t, x, torch.Generator().manual_seed(2)) for s in (exact, published)]
        assert (steps[0] - steps[1]).abs().max() > 0.1


def denoiser(x: Tensor, t: int | Tensor) -> Tensor:
    """A fixed smooth "network": any function will do when two samplers are compared."""
    return torch.tanh(0.9 * x + 0.001 * t)


def walk(scheduler, x: Tensor, generator, **arguments) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser(x, t), t, x, generator=generator, **arguments).prev_sample
    return x


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
class TestAgainstDiffusers:
    def test_first_order_is_ddpm_on_the_same_timesteps(self, prediction_type):
        ours = AIASScheduler(**LDM, prediction_type=prediction_type, solver_order=1)
        theirs = DDPMScheduler(**LDM, prediction_type=prediction_type, variance_type="fixed_small", clip_sample=False)
        ours.set_timesteps(8)
        theirs.set_timesteps(timesteps=ours.timesteps.tolist())
        results = [walk(s, randn(0), torch.Generator().manual_seed(1)) for s in (ours, theirs)]
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)

    def test_first_order_is_ddim_with_eta_one(self, prediction_type):
        ours = AIASScheduler(**LDM, prediction_type=prediction_type, solver_order=1)
        theirs = DDIMScheduler(**LDM, prediction_type=prediction_type, clip_sample=False, timestep_spacing="trailing")
        theirs.set_timesteps(8)
        ours.set_timesteps(timesteps=theirs.timesteps.tolist())
        x = walk(ours, randn(0), torch.Generator().manual_seed(1))
        y = walk(theirs, randn(0), torch.Generator().manual_seed(1), eta=1.0)
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)

    def test_targets_and_noising_are_theirs(self, prediction_type):
        ours = AIASScheduler(**LDM, prediction_type=prediction_type)
        theirs = DDPMScheduler(**LDM, prediction_type=prediction_type)
        x_0, noise, t = randn(0), randn(1), torch.tensor([3, 700])
        torch.testing.assert_close(ours.add_noise(x_0, noise, t), theirs.add_noise(x_0, noise, t))
        torch.testing.assert_close(ours.get_velocity(x_0, noise, t), theirs.get_velocity(x_0, noise, t))


def test_prediction_types_recover_the_same_original():
    x_0, noise, t = randn(0, torch.float64), randn(1, torch.float64), torch.tensor([10, 900])
    base = AIASScheduler(**LDM)
    x_t = base.add_noise(x_0, noise, t)
    outputs = {"epsilon": noise, "v_prediction": base.get_velocity(x_0, noise, t), "sample": x_0}
    for prediction_type, output in outputs.items():
        scheduler = AIASScheduler(**LDM, prediction_type=prediction_type)
        torch.testing.assert_close(scheduler.predict_original(output, t, x_t), x_0, rtol=1e-9, atol=1e-9)


def mean_std_error(num_inference_steps: int, **arguments) -> float:
    """Relative error of the final std, Gaussian data with its exact denoiser, mean over data std 1 … 0.1."""
    std = torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)[:, None]
    scheduler = AIASScheduler(**LDM, prediction_type="sample", **arguments)
    scheduler.set_timesteps(num_inference_steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, 40_000), generator=generator, dtype=torch.float64)
    for k in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[k]
        x_0 = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * x
        x = scheduler.step(x_0, k, x, generator).prev_sample
    return float((x.std(dim=1, keepdim=True) / std - 1).abs().mean())


class TestAccuracy:
    def test_second_order_on_log_snr_is_five_times_better_at_eight_calls(self):
        ours = mean_std_error(8)  # 0.043
        plain = mean_std_error(8, spacing="uniform", solver_order=1)  # 0.457
        assert ours < 0.06
        assert plain > 5 * ours

    def test_either_half_of_the_remedy_is_weaker(self):
        both = mean_std_error(8)
        assert mean_std_error(8, solver_order=1) > 2 * both
        assert mean_std_error(8, spacing="uniform") > 2 * both

    def test_error_falls_with_the_number_of_calls(self):
        errors = [mean_std_error(n) for n in (1, 2, 3, 4, 6, 8, 12, 24)]
        assert errors == sorted(errors, reverse=True)


class TestTimesteps:
    @pytest.mark.parametrize("spacing", ["logsnr", "uniform"])
    @pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 50, 997, 998, 999, 1000])
    def test_number_of_calls_is_exact(self, spacing, n):
        scheduler = AIASScheduler(**LDM, spacing=spacing)
        scheduler.set_timesteps(n)
        timesteps = scheduler.timesteps.tolist()
        assert len(timesteps) == len(set(timesteps)) == scheduler.num_inference_steps == n
        assert timesteps == sorted(timesteps, reverse=True)
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0

    @pytest.mark.parametrize("n", [1, 2, 5, 40])
    def test_strength_spends_all_calls_below_its_start(self, n):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(n, strength=0.57)
        assert scheduler.timesteps[0] == 569
        assert len(scheduler.timesteps) == n

    def test_uniform_spacing_is_the_published_list(self):
        scheduler = AIASScheduler(**LDM, spacing="uniform")
        scheduler.set_timesteps(50)
        timesteps = scheduler.timesteps.tolist()
        assert timesteps[:13] == [999, 978, 957, 936, 915, 895, 874, 853, 832, 811, 791, 770, 749]
        assert timesteps[-6:] == [84, 63, 42, 21, 1, 0]

    def test_log_snr_spacing_takes_even_steps_in_lambda(self):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(8)
        step = half_log_snr(scheduler.alphas_cumprod[scheduler.timesteps]).diff()
        assert step.max() < 1.2 * step.min()

    def test_two_calls_do_not_waste_one_on_the_last_step(self):
        for spacing, second in (("logsnr", 233), ("uniform", 499)):
            scheduler = AIASScheduler(**LDM, spacing=spacing)
            scheduler.set_timesteps(2)
            assert scheduler.timesteps.tolist() == [999, second]

    def test_the_last_call_returns_its_original(self):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(4)
        x_0 = randn(0)
        for t in scheduler.timesteps:
            generator = torch.Generator().manual_seed(2)
            before = generator.get_state()
            x = scheduler.step_original(x_0, t, randn(1), generator)
        assert torch.equal(x, x_0)
        assert torch.equal(generator.get_state(), before)  # a call without noise draws none

    @pytest.mark.parametrize("timesteps", [[500], [999, 0], [999, 500, 1, 0]])
    def test_custom_timesteps_are_walked_as_they_are(self, timesteps):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(timesteps=timesteps)
        assert scheduler.timesteps.tolist() == timesteps
        assert scheduler.num_inference_steps == len(timesteps)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "pass one of them"),
            ({"num_inference_steps": 0}, "do not fit"),
            ({"num_inference_steps": 1001}, "do not fit"),
            ({"num_inference_steps": 20, "strength": 0.01}, "do not fit"),
            ({"num_inference_steps": 1, "strength": 1.5}, "do not fit"),
            ({"timesteps": [3, 7]}, "strictly falling"),
            ({"timesteps": [1000, 3]}, "strictly falling"),
            ({"timesteps": [3, -1]}, "strictly falling"),
            ({"timesteps": [300, 3], "strength": 0.5}, "drop one"),
        ],
    )
    def test_impossible_trajectories_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            AIASScheduler(**LDM).set_timesteps(**arguments)


class TestSteps:
    def test_step_is_predict_then_draw(self):
        composed, split = AIASScheduler(**LDM), AIASScheduler(**LDM)
        for scheduler in (composed, split):
            scheduler.set_timesteps(5)
        x = y = randn(0)
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        for t in composed.timesteps:
            drawn = composed.step(denoiser(x, t), t, x, generators[0])
            x, original = drawn.prev_sample, drawn.pred_original_sample
            x_0 = split.predict_original(denoiser(y, t), t, y)
            y = split.step_original(x_0, t, y, generators[1])
            assert torch.equal(original, x_0)
        assert torch.equal(x, y)

    def test_a_background_blended_into_the_original_follows_the_forward_process(self):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(6)
        generator = torch.Generator().manual_seed(0)
        background = torch.full((100_000,), 0.7, dtype=torch.float64)
        noise = torch.randn(background.shape, generator=generator, dtype=torch.float64)
        x = scheduler.add_noise(background, noise, 999)
        for t, s in zip(scheduler.timesteps[:-1], scheduler.timesteps[1:], strict=True):
            x = scheduler.step_original(background, t, x, generator)
            alpha_bar = scheduler.alphas_cumprod[s]
            assert float(x.mean()) == pytest.approx(float(alpha_bar.sqrt()) * 0.7, abs=0.015)
            assert float(x.var()) == pytest.approx(float(1 - alpha_bar), rel=0.02)

    def test_per_sample_generators_make_a_sample_independent_of_its_batch(self):
        def generate(seeds: list[int]) -> Tensor:
            scheduler = AIASScheduler(**LDM)
            scheduler.set_timesteps(6)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            x = torch.cat([torch.randn((1, *SHAPE[1:]), generator=g) for g in generators])
            return walk(scheduler, x, generators)

        batch = generate([3, 4, 5])
        for i, seed in enumerate([3, 4, 5]):
            assert torch.equal(batch[i : i + 1], generate([seed]))
        assert torch.equal(batch.flip(0), generate([5, 4, 3]))

    def test_a_new_trajectory_forgets_the_one_before(self):
        used, fresh = AIASScheduler(**LDM), AIASScheduler(**LDM)
        used.set_timesteps(7)
        walk(used, randn(5), torch.Generator().manual_seed(5))
        results = []
        for scheduler in (used, fresh):
            scheduler.set_timesteps(4)
            results.append(walk(scheduler, randn(0), torch.Generator().manual_seed(1)))
        assert torch.equal(*results)

    def test_half_precision_samples_stay_half(self):
        scheduler = AIASScheduler(**LDM)
        scheduler.set_timesteps(3)
        assert walk(scheduler, randn(0).to(torch.bfloat16), torch.Generator().manual_seed(0)).dtype == torch.bfloat16

    def test_steps_off_the_trajectory_are_refused(self):
        scheduler = AIASScheduler(**LDM)
        with pytest.raises(ValueError, match="call set_timesteps"):
            scheduler.step(randn(0), 999, randn(0))
        scheduler.set_timesteps(timesteps=[900, 500, 100, 5])
        with pytest.raises(ValueError, match="timestep 7 is not on"):
            scheduler.step(randn(0), 7, randn(0))
        with pytest.raises(ValueError, match="in order"):
            scheduler.step(randn(0), 500, randn(0))


class TestConfig:
    ODD = {  # noqa: RUF012
        **LDM,
        "prediction_type": "v_prediction",
        "kernel": "published",
        "spacing": "uniform",
        "solver_order": 1,
        "extrapolation_cap": 0.3,
    }

    def test_save_and_load_keep_every_setting(self, tmp_path):
        AIASScheduler(**self.ODD).save_config(tmp_path)
        loaded = AIASScheduler.from_pretrained(tmp_path)
        assert {key: loaded.config[key] for key in self.ODD} == self.ODD

    @pytest.mark.parametrize("values", [{}, ODD])
    def test_schedule_survives_ddim_and_back(self, values):
        ours = AIASScheduler(**values)
        theirs = DDIMScheduler.from_config(ours.config)
        back = AIASScheduler.from_config(theirs.config)
        torch.testing.assert_close(theirs.alphas_cumprod.double(), ours.alphas_cumprod, rtol=1e-4, atol=0)
        assert theirs.config["prediction_type"] == ours.config["prediction_type"]
        names = ("num_train_timesteps", *self.ODD)
        assert [back.config[name] for name in names] == [ours.config[name] for name in names]

    @pytest.mark.parametrize(
        "values", [{"kernel": "best"}, {"spacing": "log"}, {"solver_order": 3}, {"beta_schedule": "cosine"}]
    )
    def test_unknown_choices_are_refused_by_name(self, values):
        (name,) = values
        with pytest.raises(ValueError, match=f"{name} is .*choose one of"):
            AIASScheduler(**values)
