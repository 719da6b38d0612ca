"""Laws of the joint training: its targets lead to the clean latent, it learns, and interruptions leave no trace."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastsynth.diffusion.base import latent_mask
from fastsynth.diffusion.losses import FASTLoss, fast_loss
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.training import TrainedParts, TrainingNoise, TrainingResult, train_fast
from fastsynth.diffusion.views import EncodedViews
from fastsynth.loops import Progress

SETTINGS = {
    "seed": 0, "max_train_steps": 12, "batch_size": 4, "learning_rate": 4e-3, "warmup_steps": 2, "ema_decay": 0.9,
    "denoising_weight": 2.0, "farm_weight": 5.0, "foreground_weight": 3.0, "normal_share": 0.25,
    "farm_share": 0.5, "save_every": 5, "judge_every": 5,
}  # fmt: skip


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def views(count: int, rows: int | list[int] = 0, seed: int = 0) -> EncodedViews:
    """Latents of 32 px pictures, with boxes and lines as masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, 32, 32, dtype=torch.uint8)
    masks[::2, :, 8:20, 8:24] = 1
    masks[1::2, :, 3, 2:30] = 1
    tokens = torch.full((count,), rows) if isinstance(rows, int) else torch.tensor(rows)
    return EncodedViews(torch.randn((count, 4, 4, 4), generator=generator), masks, tokens)


def train(pipeline: FASTPipeline, output: Path, *, log: Callable = lambda values: None, **changes) -> TrainingResult:
    return train_fast(pipeline, views(6), views(3, rows=2, seed=1), output=output, log=log, **(SETTINGS | changes))


def weights(pipeline: FASTPipeline) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in TrainedParts(pipeline).state_dict().items()}


def assert_same_weights(first: FASTPipeline, second: FASTPipeline):
    for name, value in weights(first).items():
        torch.testing.assert_close(value, weights(second)[name], atol=1e-6, rtol=0, msg=name)


def one_step(pipeline: FASTPipeline, count: int = 8):
    latents, masks, rows = views(count, rows=[i % 2 for i in range(count)]).batch(torch.arange(count).numpy())
    noise = TrainingNoise(latents.shape, num_train_timesteps=1000, seed=0, step=0, farm_share=0.5)
    return latents, masks, noise, TrainedParts(pipeline)(latents, masks, rows, pipeline.scheduler, noise)


def loss_on_the_views(pipeline: FASTPipeline) -> FASTLoss:
    """Of the training defects, each at 16 noise levels."""
    latents, masks, rows = views(6).batch(torch.arange(6).repeat(16).numpy())
    noise = TrainingNoise(latents.shape, num_train_timesteps=1000, seed=1, step=0, farm_share=0.5)
    with torch.no_grad():
        output = TrainedParts(pipeline).eval()(latents, masks, rows, pipeline.scheduler, noise)
    return fast_loss(**output, latents=latents, mask=latent_mask(masks))


class TestTargets:
    def test_the_right_velocity_leads_back_to_the_latents_with_and_without_farm(self, pipeline):
        inputs = []
        pipeline.unet.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0][:, :4]))
        with torch.no_grad():
            latents, _, noise, output = one_step(pipeline)
        assert 0 < noise.with_farm.sum() < len(noise.with_farm)
        alpha_bar = pipeline.scheduler.alphas_cumprod[noise.timesteps].float()[:, None, None, None]
        weight = torch.where(noise.with_farm[:, None, None, None], (1 - alpha_bar).sqrt(), 1.0)
        velocity = output["target"] / weight
        clean = pipeline.scheduler.predict_original(velocity, noise.timesteps, inputs[0])
        torch.testing.assert_close(clean, latents, atol=2e-5, rtol=1e-4)

    def test_without_farm_the_target_is_the_velocity_of_the_noise(self, pipeline):
        with torch.no_grad():
            latents, _, noise, output = one_step(pipeline)
        wanted = pipeline.scheduler.get_velocity(latents, noise.epsilon, noise.timesteps)
        plain = ~noise.with_farm
        torch.testing.assert_close(output["target"][plain], wanted[plain], atol=1e-4, rtol=1e-3)

    def test_with_farm_the_error_is_that_of_the_predicted_clean_latent(self, pipeline):
        inputs = []
        pipeline.unet.register_forward_hook(
            lambda _, arguments, output: inputs.append((arguments[0][:, :4], output.sample))
        )
        with torch.no_grad():
            latents, _, noise, output = one_step(pipeline)
        (x, velocity), farm = inputs[0], noise.with_farm
        clean = pipeline.scheduler.predict_original(velocity, noise.timesteps, x)
        error = (output["prediction"] - output["target"]).abs()
        torch.testing.assert_close(error[farm], (clean - latents).abs()[farm], atol=1e-4, rtol=1e-3)

    def test_farm_rewrites_the_input_inside_the_mask_only(self, pipeline):
        inputs = []
        pipeline.unet.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0][:, :4]))
        with torch.no_grad():
            latents, masks, noise, _ = one_step(pipeline)
        noisy = pipeline.scheduler.add_noise(latents, noise.epsilon, noise.timesteps)
        rewritten = (latent_mask(masks) > 0) & noise.with_farm[:, None, None, None]
        differs = (inputs[0] != noisy).any(dim=1, keepdim=True)
        assert torch.equal(differs, rewritten)

    def test_every_part_receives_gradients(self, pipeline):
        parts = TrainedParts(pipeline).train()
        latents, masks, _, output = one_step(pipeline)
        fast_loss(**output, latents=latents, mask=latent_mask(masks)).total.backward()
        for name, parameter in parts.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        for part in (parts.unet, parts.farm):
            assert sum(p.grad.any().item() for p in part.parameters()) > 0.9 * len(list(part.parameters()))
        # rows 0 and 1 were asked for, the normal one was not
        assert pipeline.tokens.tokens.grad.flatten(1).any(dim=1).tolist() == [True, True, False]


class TestNoise:
    def test_it_depends_on_seed_and_step_alone(self):
        def draw(seed, step):
            return vars(
                TrainingNoise(torch.Size((8, 4, 4, 4)), num_train_timesteps=1000, seed=seed, step=step, farm_share=0.5)
            )

        for name, value in draw(3, 5).items():
            assert torch.equal(value, draw(3, 5)[name])
        assert not torch.equal(draw(3, 5)["epsilon"], draw(3, 6)["epsilon"])
        assert not torch.equal(draw(3, 5)["epsilon"], draw(4, 5)["epsilon"])
        assert not torch.equal(draw(3, 5)["epsilon"], draw(3, 5)["fresh"])

    @pytest.mark.parametrize("count", [1, 7, 24])
    def test_a_batch_spreads_over_all_noise_levels(self, count):
        for step in range(20):
            noise = TrainingNoise(
                torch.Size((count, 1, 4, 4)), num_train_timesteps=1000, seed=0, step=step, farm_share=0.5
            )
            for i, timestep in enumerate(noise.timesteps.sort().values.tolist()):
                assert 1000 * i // count <= timestep <= 1000 * (i + 1) // count

    def test_farm_has_its_share_of_the_samples(self):
        def share(wanted):
            shape, drawn = torch.Size((4000, 1, 1, 1)), {"num_train_timesteps": 1000, "seed": 0, "step": 0}
            return TrainingNoise(shape, **drawn, farm_share=wanted).with_farm.float().mean().item()

        assert share(0.0) == 0
        assert share(1.0) == 1
        assert abs(share(0.3) - 0.3) < 0.03


class TestLearning:
    def test_it_overfits_a_handful_of_views(self, pipeline, tmp_path):
        steps, before = [], loss_on_the_views(pipeline)
        result = train(pipeline, tmp_path, log=lambda values: steps.append(values["step"]), max_train_steps=80)
        after = loss_on_the_views(pipeline)
        assert after.denoise < 0.7 * before.denoise
        assert after.farm < 0.7 * before.farm
        assert steps == list(range(10, 81, 10))
        assert 0 < result.seconds < 60
        assert (result.steps, result.held_out_loss) == (80, None)

    def test_the_autoencoder_stays_and_the_rest_moves_and_is_frozen_afterwards(
        self, pipeline, build_pipeline, tmp_path
    ):
        train(pipeline, tmp_path)
        fresh = build_pipeline()
        for name, value in pipeline.vae.state_dict().items():
            assert torch.equal(value, fresh.vae.state_dict()[name])
        before, after = weights(fresh), weights(pipeline)
        for part in ("unet", "farm", "tokens"):
            assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith(part))
        assert not any(p.requires_grad for p in TrainedParts(pipeline).parameters())
        assert not pipeline.unet.training

    def test_without_normals_every_view_is_a_defect(self, pipeline, build_pipeline, tmp_path):
        train(pipeline, tmp_path, normal_share=0.0)
        unused = pipeline.tokens.tokens[1:]
        # weight decay pulls at tokens nobody asked for, nothing else does
        torch.testing.assert_close(unused, build_pipeline().tokens.tokens[1:], rtol=1e-2, atol=1e-3)


class TestInterruption:
    def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(self, build_pipeline, tmp_path):
        straight, killed, resumed = (build_pipeline() for _ in range(3))
        train(straight, tmp_path / "straight")

        def kill(values):
            raise Killed

        with pytest.raises(Killed):
            train(killed, tmp_path / "killed", log=kill)  # after step 10, before its checkpoint
        assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["checkpoint-5"]
        torch.manual_seed(99)  # another process: its global random state is another one
        train(resumed, tmp_path / "killed")
        assert_same_weights(resumed, straight)

    def test_a_checkpoint_cut_off_while_it_was_written_is_not_taken(self, build_pipeline, tmp_path):
        straight, resumed = build_pipeline(), build_pipeline()
        train(straight, tmp_path)
        checkpoints = tmp_path / "checkpoints"
        assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-5", "checkpoint-10"}
        (checkpoints / ".unfinished").mkdir()
        (checkpoints / ".unfinished" / "model.safetensors").write_bytes(b"half")
        train(resumed, tmp_path)
        assert_same_weights(resumed, straight)

    def test_a_finished_training_is_not_continued(self, build_pipeline, tmp_path):
        straight, again, logged = build_pipeline(), build_pipeline(), []
        train(straight, tmp_path, max_train_steps=10)
        train(again, tmp_path, max_train_steps=10, log=logged.append)
        assert logged == []
        assert_same_weights(again, straight)

    def test_seconds_add_up_over_sittings(self):
        first, second = Progress(), Progress()
        first.load_state_dict({"step": 7, "seconds": 100.0})
        second.load_state_dict(first.state_dict())
        assert second.step == 7
        assert 100 <= second.seconds < 110
