"""Training on a pretrained base: what learns, what stays, and that others can read what was learned."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from pretrained_bases import SIZE, build, draw, masks, pictures, save_base
from safetensors.torch import load_file

from fastsynth.diffusion.pretrained.building import open_pretrained_pipeline
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline
from fastsynth.diffusion.pretrained.training import PretrainedParts, build_optimizer, right_output, save_adapters
from fastsynth.diffusion.training import TrainingNoise, TrainingSetup, train_fast
from fastsynth.diffusion.views import EncodedViews

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_base(folder / kind, kind) for kind in ("sd", "sd2", "inpaint", "ldm")}


def views_of(pipeline: PretrainedFASTPipeline) -> EncodedViews:
    latents = pipeline.training_latents(pictures(4), masks(4)).detach()
    return EncodedViews(latents, masks(4).to(torch.uint8), torch.tensor([0, 1, 0, 2]))


def setup_of(pipeline: PretrainedFASTPipeline, output: Path, **changes) -> TrainingSetup:
    return TrainingSetup(
        build_parts=lambda _: PretrainedParts(pipeline, latent_size=8, **changes),
        build_optimizer=lambda parts, rate: build_optimizer(
            parts, learning_rate=rate, token_learning_rate=1e-2, kind="adamw"
        ),
        schedule="constant_with_warmup",
        before_merge=partial(save_adapters, pipeline, output),
    )


def train(pipeline: PretrainedFASTPipeline, output: Path, *, steps: int = 2, setup=None, **changes) -> None:
    views = views_of(pipeline)
    settings = {
        "seed": 1, "max_train_steps": steps, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 0,
        "ema_decay": 0.0, "denoising_weight": 2.0, "farm_weight": 5.0, "foreground_weight": 0.0, "normal_share": 0.0,
        "farm_share": 0.5, "save_every": 100, "judge_every": 100, "unet": "frozen", "lora_rank": 2,
        "log": lambda _: None,
    }  # fmt: skip
    train_fast(pipeline, views, views, output=output, setup=setup or setup_of(pipeline, output), **(settings | changes))


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


FRESH_PROCESS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pretrained_bases import draw
from fastsynth.diffusion.pretrained.building import open_pretrained_pipeline
for folder in map(Path, sys.argv[2:]):
    pipeline = open_pretrained_pipeline(
        folder, precision="fp32", kernel="exact", spacing="logsnr", solver_order=2
    )
    pipeline.set_progress_bar_config(disable=True)
    torch.save(draw(pipeline), folder / "drawn.pt")
"""


def test_every_base_trains_and_draws_the_same_in_a_fresh_process(bases, tmp_path):
    folders, drawn = [], []
    for kind, unet in (("sd", "lora"), ("sd2", "frozen"), ("inpaint", "frozen"), ("ldm", "lora")):
        pipeline = build(bases[kind], spatial_tokens=2)
        before = {name: weights(getattr(pipeline, name)) for name in ("unet", "farm", "tokens", "vae", "text_encoder")}
        folder = tmp_path / kind
        train(pipeline, folder, unet=unet)
        changes = {name: changed(getattr(pipeline, name), saved) for name, saved in before.items()}
        frozen = {"vae": False, "text_encoder": False}
        assert changes == {"unet": unet == "lora", "farm": True, "tokens": True, **frozen}, kind
        pipeline.save_pretrained(folder)
        folders.append(folder)
        loaded = open_pretrained_pipeline(folder, precision="fp32", kernel="exact", spacing="logsnr", solver_order=2)
        loaded.set_progress_bar_config(disable=True)
        drawn.append(draw(loaded))
        torch.testing.assert_close(draw(pipeline), drawn[-1], atol=1e-4, rtol=1e-3)
    command = [sys.executable, "-c", FRESH_PROCESS, str(Path(__file__).parents[1]), *map(str, folders)]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=600)
    for folder, image in zip(folders, drawn, strict=True):
        torch.testing.assert_close(torch.load(folder / "drawn.pt"), image, atol=1e-5, rtol=1e-5)


def test_diffusers_own_pipeline_loads_the_low_rank_weights(bases, tmp_path):
    pipeline = build(bases["sd"])
    train(pipeline, tmp_path, unet="lora")
    theirs = StableDiffusionPipeline.from_pretrained(bases["sd"], local_files_only=True)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    context = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = theirs.unet(x, t, context).sample
        theirs.load_lora_weights(str(tmp_path / "lora"))
        corrected = theirs.unet(x, t, context).sample
        merged = pipeline.unet(x, t, context).sample
    torch.testing.assert_close(corrected, merged, atol=1e-6, rtol=1e-5)
    assert (corrected - plain).abs().max() > 1e-4


class TestSteps:
    @pytest.mark.parametrize("unet", ["frozen", "lora"])
    def test_an_interrupted_training_ends_like_a_whole_one(self, bases, tmp_path, unet):
        whole, parts = build(bases["sd"]), [build(bases["sd"]) for _ in range(2)]
        train(whole, tmp_path / "whole", steps=4, unet=unet)
        train(parts[0], tmp_path / "parts", steps=2, save_every=2, unet=unet)
        (checkpoint,) = (tmp_path / "parts").rglob("model.safetensors")
        saved = set(load_file(checkpoint))
        assert not any(name.startswith(("text_encoder.", "unet.conv_in.")) for name in saved), "frozen"
        assert any(name.startswith("unet.") for name in saved) == (unet == "lora")
        train(parts[1], tmp_path / "parts", steps=4, unet=unet)
        for name in ("farm", "tokens", "unet"):
            for key, value in weights(getattr(whole, name)).items():
                torch.testing.assert_close(value, getattr(parts[1], name).state_dict()[key], atol=1e-6, rtol=1e-5)

    def test_checkpointing_the_unet_changes_no_gradient(self, bases, tmp_path):
        found = []
        for checkpointing in (False, True):
            pipeline = build(bases["sd"])
            if checkpointing:
                pipeline.unet.enable_gradient_checkpointing()
            train(pipeline, tmp_path / str(checkpointing))
            found.append(weights(pipeline.tokens)["vectors"])
        torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)

    def test_bf16_trains_in_fp32_and_leaves_no_precision_behind(self, bases, tmp_path):
        pipeline = build(bases["sd"], precision="bf16")
        before = weights(pipeline.farm)
        setup = setup_of(pipeline, tmp_path)
        train(pipeline, tmp_path, setup=TrainingSetup(**vars(setup) | {"mixed_precision": "bf16"}))
        assert changed(pipeline.farm, before)
        assert {p.dtype for p in pipeline.farm.parameters()} == {torch.float32}
        assert {p.dtype for p in pipeline.unet.parameters()} == {torch.bfloat16}
        assert Accelerator(cpu=True).mixed_precision == "no"

    def test_the_published_loss_reaches_farm_through_the_frozen_unet(self, bases):
        pipeline = build(bases["sd"])
        pipeline.farm.requires_grad_(True)
        output = one_step(pipeline)
        (output["prediction"] - output["target"]).square().mean().backward()
        assert all(p.grad is not None for p in pipeline.farm.output.parameters())
        assert all(p.grad is None for p in pipeline.unet.parameters())

    def test_the_masked_loss_counts_nothing_outside(self, bases):
        pipeline = build(bases["sd"])
        outside = pipeline.latent_mask(masks(2)).expand(-1, 4, -1, -1) == 0
        plain, masked = one_step(pipeline), one_step(pipeline, masked_loss=True)
        for name in ("prediction", "target"):
            assert not masked[name][outside].any()
            torch.testing.assert_close(masked[name][~outside], plain[name][~outside])

    def test_eight_bits_without_bitsandbytes_say_what_to_install(self, bases):
        if _has_bitsandbytes():
            pytest.skip("bitsandbytes is installed")
        parts = PretrainedParts(build(bases["sd"]), latent_size=8).requires_grad_(True)
        with pytest.raises(ImportError, match="pip install bitsandbytes"):
            build_optimizer(parts, learning_rate=1e-3, token_learning_rate=1e-2, kind="adamw_8bit")


class TestTargets:
    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
    def test_for_a_plain_noisy_latent_the_right_output_is_the_scheduler_s(self, kind, bases):
        scheduler = build(bases["sd"]).scheduler
        generator = torch.Generator().manual_seed(0)
        latents, noise = torch.randn(3, 4, 2, 2, generator=generator), torch.randn(3, 4, 2, 2, generator=generator)
        steps = torch.tensor([20, 500, 999])
        alpha_bar = scheduler.alphas_cumprod[steps].float()[:, None, None, None]
        found = right_output(scheduler.add_noise(latents, noise, steps), latents, alpha_bar, kind)
        wanted = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, steps)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

    def test_the_optimiser_gives_the_tokens_their_own_rate(self, bases):
        parts = PretrainedParts(build(bases["sd"]), latent_size=8)
        parts.tokens.requires_grad_(True)
        parts.farm.requires_grad_(True)
        groups = build_optimizer(parts, learning_rate=1e-4, token_learning_rate=5e-3, kind="adamw").param_groups
        sizes = {group["lr"]: sum(p.numel() for p in group["params"]) for group in groups}
        assert sizes == {1e-4: sum(p.numel() for p in parts.farm.parameters()), 5e-3: parts.tokens.vectors.numel()}


def one_step(pipeline: PretrainedFASTPipeline, **changes) -> dict[str, torch.Tensor]:
    parts = PretrainedParts(pipeline, latent_size=SIZE // 4, **changes)
    latents, mask_image, rows = views_of(pipeline).batch(np.arange(2))
    noise = TrainingNoise(latents.shape, num_train_timesteps=1000, seed=0, step=0, farm_share=0.5)
    return parts(latents, mask_image, rows, pipeline.scheduler, noise)


def _has_bitsandbytes() -> bool:
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None
