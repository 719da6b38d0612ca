"""Laws of the pipeline: calls are counted, the background stays, images are independent, saving changes nothing."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastsynth.diffusion.base import hidden, latent_mask
from fastsynth.diffusion.pipeline import FASTPipeline

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("tile", "crack")
STEPS = 3
OTHER_PROCESS = """
import sys, torch
from fastsynth.diffusion.pipeline import FASTPipeline
folder = sys.argv[1]
pipeline = FASTPipeline.from_pretrained(folder + "/model")
given = torch.load(folder + "/inputs.pt", weights_only=True)
images = pipeline(**given, generator=torch.Generator().manual_seed(7), output_type="pt", num_inference_steps=3).images
torch.save(images, folder + "/images.pt")
"""


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def inputs(count=2, height=32, width=32) -> tuple[Tensor, Tensor]:
    """Pictures and masks: a square in the middle of the first, a thin line in every other."""
    pictures = torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(count, 1, height, width)
    masks[0, :, 10:20, 9:22] = 1
    masks[1:, :, 5, 3:] = 1
    return pictures, masks


def call(pipeline: FASTPipeline, *, seeds=(1, 2), **arguments) -> Tensor:
    pictures, masks = inputs(len(seeds))
    arguments = {"image": pictures, "mask_image": masks, "num_inference_steps": STEPS, "output_type": "pt"} | arguments
    arguments = {"category": "tile", "defect": "crack", "farm": "input"} | arguments  # every part at work
    return pipeline(generator=generators(*seeds), **arguments).images


def sample(pipeline: FASTPipeline, background: Tensor, masks: Tensor, **arguments) -> Tensor:
    defaults = {"guess": None, "start": "noise", "strength": 1.0, "num_inference_steps": STEPS, "farm": "input"}
    defaults |= {"background_mode": "x0_blend"}
    rows = torch.zeros(len(masks), dtype=torch.int64)
    seeds = generators(*range(len(masks)))
    return pipeline.sample(background, masks, rows, generator=seeds, **(defaults | arguments))


def count_calls(pipeline: FASTPipeline) -> Counter:
    counts: Counter = Counter()
    parts = {
        "unet": pipeline.unet,
        "farm": pipeline.farm,
        "encode": pipeline.vae.encoder,
        "decode": pipeline.vae.decoder,
    }
    for name, module in parts.items():
        module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    return counts


class TestCost:
    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_the_unet_is_called_once_per_step_and_the_autoencoder_once_each_way(self, pipeline, steps):
        counts = count_calls(pipeline)
        call(pipeline, num_inference_steps=steps)
        assert counts == {"unet": steps, "farm": steps, "encode": 1, "decode": 1}

    def test_guidance_costs_a_second_call_per_step_and_none_at_1(self, pipeline):
        counts = count_calls(pipeline)
        call(pipeline, guidance_scale=1.5, farm="off")
        assert counts["unet"] == 2 * STEPS
        call(pipeline, guidance_scale=1.0, farm="off")
        assert counts["unet"] == 3 * STEPS

    def test_an_exemplar_costs_one_more_encoding_and_no_call(self, pipeline):
        counts = count_calls(pipeline)
        call(pipeline, start="exemplar", strength=0.5, exemplar_image=inputs()[0])
        assert counts == {"unet": STEPS, "farm": STEPS, "encode": 2, "decode": 1}

    def test_farm_costs_nothing_when_off_and_one_call_more_as_the_start(self, pipeline):
        counts = count_calls(pipeline)
        call(pipeline, farm="off")
        assert counts["farm"] == 0
        call(pipeline, start="farm", strength=0.5)
        assert (counts["farm"], counts["unet"]) == (STEPS + 1, 2 * STEPS)

    def test_farm_at_the_output_is_called_between_the_calls_of_the_unet(self, pipeline):
        counts = count_calls(pipeline)
        call(pipeline, farm="output", background_mode="paste_all")
        assert counts == {"unet": STEPS, "farm": STEPS - 1, "encode": 1, "decode": 1}


class TestGuidance:
    def test_the_prediction_goes_on_along_the_line_from_the_normal_surface_to_the_defect(self, pipeline):
        _, masks = inputs()
        channels = pipeline.unet.config["out_channels"]
        x, background = torch.randn((2, 2, channels, 4, 4), generator=torch.Generator().manual_seed(3))
        crack, good = (torch.full((2,), pipeline.tokens.index("tile", name)) for name in ("crack", "good"))
        t = torch.tensor(500)
        with torch.no_grad():
            drawn, normal = (pipeline.denoiser(background, masks, rows)(x, t) for rows in (crack, good))
            guided = pipeline.denoiser(background, masks, crack, guidance_scale=2.5)(x, t)
        assert not torch.equal(drawn, normal)
        torch.testing.assert_close(guided, drawn + 1.5 * (drawn - normal), atol=1e-5, rtol=1e-4)

    def test_a_normal_surface_is_not_led_anywhere(self, pipeline):
        plain, guided = (call(pipeline, defect="good", guidance_scale=scale) for scale in (1.0, 3.0))
        torch.testing.assert_close(plain, guided, atol=1e-5, rtol=1e-4)

    def test_a_scale_below_1_is_refused(self, pipeline):
        with pytest.raises(ValueError, match=r"guidance_scale is 0\.5; pass 1, which is no guidance, or more"):
            call(pipeline, guidance_scale=0.5)


class TestHiding:
    """A latent cell holds what its neighbours show: what a mask covers must not be read off the latents around it."""

    def test_around_the_mask_no_latent_tells_what_is_inside(self, pipeline):
        pictures, masks = inputs()
        drawn = torch.where(masks > 0, -pictures, pictures)
        outside = (latent_mask(masks) == 0).expand(-1, pipeline.unet.config["out_channels"], -1, -1)
        with torch.no_grad():
            assert not torch.equal(pipeline.encode(pictures)[outside], pipeline.encode(drawn)[outside])
            latents = [pipeline.training_latents(shown, masks) for shown in (pictures, drawn)]
        assert torch.equal(latents[0][outside], latents[1][outside])
        assert not torch.equal(*latents)

    @pytest.mark.parametrize("start", ["noise", "farm"])
    def test_without_an_exemplar_nothing_that_a_mask_covers_shines_through(self, pipeline, start):
        pictures, masks = inputs()
        first = call(pipeline, start=start, strength=0.5)
        second = call(pipeline, start=start, strength=0.5, image=torch.where(masks > 0, -pictures, pictures))
        assert torch.equal(first, second)

    def test_outside_the_mask_the_picture_is_kept_to_the_bit(self, pipeline):
        pictures, masks = inputs()
        images = call(pipeline, start="noise")
        outside = (masks == 0).expand_as(images)
        assert torch.equal(images[outside], pictures[outside])
        assert not torch.equal(images, pictures)

    def test_a_hidden_mask_has_the_mean_of_what_is_around_it(self):
        pictures, masks = inputs()
        filled = hidden(pictures, masks)
        for picture, mask, result in zip(pictures, masks, filled, strict=True):
            inside = mask[0] > 0
            wanted = picture[:, ~inside].mean(1, keepdim=True)
            torch.testing.assert_close(result[:, inside], wanted.expand(-1, int(inside.sum())))
            assert torch.equal(result[:, ~inside], picture[:, ~inside])

    def test_a_mask_over_the_whole_picture_is_grey(self):
        pictures, masks = inputs()
        assert not hidden(pictures, torch.ones_like(masks)).any()


class TestMask:
    @pytest.mark.parametrize("background_mode", ["x0_blend", "paste_all"])
    @pytest.mark.parametrize("farm", ["input", "output", "off"])
    @pytest.mark.parametrize("start", ["noise", "farm", "exemplar"])
    def test_outside_the_mask_the_latents_are_those_of_the_background(self, pipeline, start, farm, background_mode):
        pictures, masks = inputs()
        with torch.no_grad():
            background = pipeline.vae.encode(pictures).latents
        guess = background.flip(0) if start == "exemplar" else None
        strength = 1.0 if start == "noise" else 0.6
        arguments = {"start": start, "farm": farm, "guess": guess, "strength": strength}
        latents = sample(pipeline, background, masks, background_mode=background_mode, **arguments)
        outside = (latent_mask(masks) == 0).expand_as(latents)
        assert torch.equal(latents[outside], background[outside])
        assert latents.isfinite().all()
        assert (latents != background)[~outside].all()

    @pytest.mark.parametrize("start", ["noise", "farm", "exemplar"])
    def test_an_empty_mask_gives_the_picture_itself(self, pipeline, start):
        """The latents stay those of the background, and the detail they lost comes back."""
        pictures, masks = inputs()
        images = call(pipeline, mask_image=0 * masks, start=start, strength=0.6, exemplar_image=pictures)
        torch.testing.assert_close(images, pictures, atol=1e-5, rtol=0)

    def test_from_noise_the_latents_do_not_depend_on_what_the_mask_hides(self, pipeline):
        pictures, masks = inputs()
        with torch.no_grad():
            background = pipeline.vae.encode(pictures).latents
        hidden = torch.where(latent_mask(masks) > 0, background + 5, background)
        first, second = sample(pipeline, background, masks), sample(pipeline, hidden, masks)
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)

    def test_a_soft_mask_counts_from_one_half(self, pipeline):
        _, masks = inputs()
        assert torch.equal(call(pipeline, mask_image=masks * 0.7 + 0.2), call(pipeline))


class Seen:
    """What of the trajectory the UNet sees: alpha_bar and noisy latents of every call, as a hook takes them down."""

    def __init__(self, pipeline: FASTPipeline) -> None:
        self.calls: list[tuple[int, Tensor]] = []
        self.alphas_cumprod = pipeline.scheduler.alphas_cumprod
        channels = pipeline.farm.config["in_channels"]
        pipeline.unet.register_forward_pre_hook(
            lambda _, inputs: self.calls.append((int(inputs[1]), inputs[0][:, :channels]))
        )

    def noise(self, clean: Tensor, where: Tensor) -> list[Tensor]:
        """(x_t - √ᾱ_t clean) / √(1 - ᾱ_t) at `where`, one per call: standard normal if x_t is noised `clean`."""
        levels = [(self.alphas_cumprod[t].float(), x) for t, x in self.calls]
        return [((x - a.sqrt() * clean) / (1 - a).sqrt())[where.expand_as(x)] for a, x in levels]

    def is_noise(self, clean: Tensor, where: Tensor) -> list[bool]:
        return [bool(abs(n.mean()) < 0.1 and abs(n.std() - 1) < 0.1) for n in self.noise(clean, where)]


def large() -> tuple[Tensor, Tensor]:
    """Latents of much signal, (2, 4, 32, 32), and masks that leave most of them alone."""
    masks = torch.zeros(2, 1, 256, 256)
    masks[:, :, 40:170, 60:180] = 1
    return 40 * torch.randn((2, 4, 32, 32), generator=torch.Generator().manual_seed(5)), masks


class TestPlacement:
    def test_pasted_background_has_its_level_s_noise_and_blended_background_keeps_a_part_of_it(self, pipeline):
        background, masks = large()
        around = latent_mask(masks) == 0
        kept = {}
        for mode in ("x0_blend", "paste_all"):
            seen = Seen(pipeline)
            sample(pipeline, background, masks, background_mode=mode, num_inference_steps=6)
            assert all(seen.is_noise(background, around))
            noise = seen.noise(background, around)
            pairs = itertools.pairwise(noise[:-1])  # hardly any survives the last, long segment
            kept[mode] = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
        assert min(kept["x0_blend"]) > 0.2
        assert np.abs(kept["paste_all"]).max() < 0.1

    def test_paste_250_750_leaves_the_background_alone_in_the_middle_half_only(self, pipeline):
        background, masks = large()
        seen = Seen(pipeline)
        latents = sample(pipeline, background, masks, background_mode="paste_250_750", num_inference_steps=10)
        levels = [t for t, _ in seen.calls]
        assert seen.is_noise(background, latent_mask(masks) == 0) == [t == 999 or 250 < t < 750 for t in levels]
        assert sum(250 < t < 750 for t in levels) == 3
        assert (latents != background).any(dim=1).all()

    @pytest.mark.parametrize("farm", ["input", "output"])
    def test_the_unet_sees_the_noised_guess_of_farm(self, pipeline, farm):
        """FARM is made to say 3 whatever it is shown; at the output it has said nothing before the first call."""
        with torch.no_grad():
            pipeline.farm.output.weight.zero_()
            pipeline.farm.output.bias.fill_(3)
            pipeline.farm.to_gain.bias.fill_(-1e4)
        background, masks = large()
        seen = Seen(pipeline)
        latents = sample(pipeline, background, masks, farm=farm, num_inference_steps=6)
        inside = latent_mask(masks) > 0
        assert seen.is_noise(torch.tensor(3.0), inside) == [farm == "input"] + [True] * 5
        assert (latents[inside.expand_as(latents)] != 3).all()  # the last word is the UNet's


class TestStart:
    def test_less_strength_stays_nearer_to_the_exemplar(self, pipeline):
        pictures, masks = inputs()
        with torch.no_grad():
            background = pipeline.vae.encode(pictures).latents
        guess = background.flip(0) + 0.5 * torch.randn(background.shape, generator=torch.Generator().manual_seed(3))
        inside = latent_mask(masks)
        distances = []
        for strength in (0.01, 0.3, 1.0):
            arguments = {"start": "exemplar", "guess": guess, "strength": strength, "farm": "off"}
            drawn = sample(pipeline, background, masks, **arguments)
            distances.append(float((inside * (drawn - guess)).norm()))
        assert distances == sorted(distances)
        assert distances[0] < 0.3 * distances[2]

    def test_what_is_asked_for_matters(self, pipeline):
        pictures, masks = inputs()
        arguments = {"num_inference_steps": STEPS, "output_type": "pt"}
        crack, dent = (
            pipeline(pictures, masks, "tile", defect, generator=generators(1, 2), **arguments).images
            for defect in ("crack", ["crack", "dent"])
        )
        assert torch.equal(crack[0], dent[0])
        assert not torch.equal(crack[1], dent[1])


class TestRandomness:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"start": "noise"},
            {"start": "farm"},
            {"farm": "output", "background_mode": "paste_all"},
            {"background_mode": "paste_250_750", "num_inference_steps": 6},
        ],
    )
    def test_an_image_does_not_depend_on_its_batch(self, pipeline, arguments):
        pictures, masks = inputs(3)
        together = call(pipeline, seeds=(1, 2, 3), strength=0.6, **arguments)
        for i, seed in enumerate((1, 2, 3)):
            alone = call(
                pipeline,
                seeds=(seed,),
                image=pictures[i : i + 1],
                mask_image=masks[i : i + 1],
                strength=0.6,
                **arguments,
            )
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)

    def test_the_same_seed_gives_the_same_picture_and_another_one_another(self, pipeline):
        before = torch.get_rng_state()
        first, second, other = call(pipeline), call(pipeline), call(pipeline, seeds=(1, 3))
        assert torch.equal(first, second)
        assert torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
        assert torch.equal(before, torch.get_rng_state())


class TestFormats:
    def test_pil_in_is_the_same_as_tensors_in(self, pipeline):
        rng = np.random.default_rng(0)
        arrays = rng.integers(0, 256, (2, 40, 64, 3), np.uint8)
        masks = np.zeros((2, 40, 64), np.uint8)
        masks[:, 10:20, 20:50] = 255
        from_pil = call(
            pipeline, image=[Image.fromarray(a) for a in arrays], mask_image=[Image.fromarray(m) for m in masks]
        )
        from_tensors = call(
            pipeline,
            image=torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1,
            mask_image=torch.from_numpy(masks)[:, None] / 255,
        )
        assert from_pil.shape == (2, 3, 40, 64)
        torch.testing.assert_close(from_pil, from_tensors, atol=1e-5, rtol=0)

    def test_output_types_hold_the_same_picture(self, pipeline):
        tensor, array, pictures = (call(pipeline, output_type=kind) for kind in ("pt", "np", "pil"))
        assert array.shape == (2, 32, 32, 3)
        np.testing.assert_allclose(array, (tensor.clamp(-1, 1).permute(0, 2, 3, 1) + 1) / 2, atol=1e-6)
        for picture, values in zip(pictures, array, strict=True):
            assert np.abs(np.asarray(picture) / 255 - values).max() <= 0.5 / 255 + 1e-6


class TestSaving:
    @pytest.mark.timeout(180)
    def test_a_fresh_process_draws_the_same_picture(self, pipeline, tmp_path):
        pictures, masks = inputs()
        given = {"image": pictures, "mask_image": masks, "category": "tile", "defect": "dent"}
        pipeline.save_pretrained(tmp_path / "model")
        torch.save(given, tmp_path / "inputs.pt")
        wanted = pipeline(
            **given, generator=torch.Generator().manual_seed(7), output_type="pt", num_inference_steps=STEPS
        ).images
        environment = os.environ | {"TQDM_DISABLE": "1"}
        subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        got = torch.load(tmp_path / "images.pt", weights_only=True)
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)

    def test_a_folder_holds_one_part_each_as_safetensors(self, pipeline, tmp_path):
        pipeline.save_pretrained(tmp_path)
        for part in ("vae", "unet", "farm", "tokens"):
            assert (tmp_path / part / "diffusion_pytorch_model.safetensors").is_file()
        assert (tmp_path / "scheduler" / "scheduler_config.json").is_file()
        assert "generators." not in (tmp_path / "model_index.json").read_text()


class TestErrors:
    def test_an_unknown_type_is_refused_with_the_closest(self, pipeline):
        pictures, masks = inputs()
        with pytest.raises(ValueError, match=r"not trained on tile/cracks; did you mean tile/crack\?"):
            pipeline(pictures, masks, "tile", "cracks")

    def test_sizes_that_differ_are_refused(self, pipeline):
        pictures, masks = inputs()
        with pytest.raises(ValueError, match=r"mask_image is \(2, 1, 24, 32\).*one mask of the same size"):
            pipeline(pictures, masks[:, :, 8:], *NAMES)
        with pytest.raises(ValueError, match=r"exemplar_image is \(1, 3, 32, 32\).*one exemplar of the same size"):
            call(pipeline, start="exemplar", exemplar_image=pictures[:1])
        with pytest.raises(ValueError, match="multiples of 8"):
            pipeline(pictures[..., 1:], masks[..., 1:], *NAMES)

    def test_counts_that_differ_are_refused(self, pipeline):
        pictures, masks = inputs()
        with pytest.raises(ValueError, match=r"1 names for 2 images \(tile\); pass one for all"):
            pipeline(pictures, masks, ["tile"], ["crack"])
        with pytest.raises(ValueError, match="3 generators for 2 images; pass one for all"):
            pipeline(pictures, masks, *NAMES, generator=generators(1, 2, 3))

    def test_an_exemplar_start_without_exemplar_is_refused(self, pipeline):
        with pytest.raises(ValueError, match="pass the pictures to start from"):
            call(pipeline, start="exemplar")
