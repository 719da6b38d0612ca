"""A pretrained base draws defects: the same bytes every time, with no call that is not needed."""

import pytest
import torch
from pretrained_bases import CELL, SIZE, build, draw, masks, pictures, save_base, tiny_taesd

from fastsynth.diffusion.pretrained.building import open_pretrained_pipeline
from fastsynth.diffusion.pretrained.latents import decode, encode
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline, inpainting_channels


class Calls:
    """Counts the forward passes of the UNet and the pictures and batches that go through the autoencoder."""

    def __init__(self, pipeline: PretrainedFASTPipeline, monkeypatch) -> None:
        self.unet, self.encoded, self.decoded, self.text = 0, [], [], 0
        pipeline.unet.register_forward_pre_hook(lambda *_: setattr(self, "unet", self.unet + 1))
        pipeline.text_encoder.register_forward_pre_hook(lambda *_: setattr(self, "text", self.text + 1))
        for name, seen in (("encode", self.encoded), ("decode", self.decoded)):
            monkeypatch.setattr(pipeline.vae, name, self._counted(getattr(pipeline.vae, name), seen))

    def _counted(self, method, seen):
        def counted(batch, *arguments, **settings):
            seen.append(len(batch))
            return method(batch, *arguments, **settings)

        return counted


@pytest.fixture(scope="module", params=["sd", "sd2", "inpaint", "ldm"])
def base(request, tmp_path_factory):
    return save_base(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("sd"), "sd")


class TestEveryKindOfBase:
    def test_saved_and_opened_again_it_draws_the_same_bytes(self, base, tmp_path):
        first = build(base, spatial_tokens=2)
        before = draw(first)
        assert torch.isfinite(before).all()
        assert torch.equal(before, draw(first)), "reproducible"
        first.save_pretrained(tmp_path)
        again = [
            open_pretrained_pipeline(tmp_path, precision="fp32", kernel="exact", spacing="logsnr", solver_order=2)
            for _ in range(2)
        ]
        for pipeline in again:
            pipeline.set_progress_bar_config(disable=True)
        assert again[0].size == SIZE
        assert torch.equal(*map(draw, again))
        # weights that lie elsewhere in memory may be summed in another order
        torch.testing.assert_close(before, draw(again[0]), atol=1e-4, rtol=1e-4)

    def test_outside_the_latent_mask_the_latents_are_the_background_s(self, base):
        pipeline = build(base)
        background = pipeline.encode(pictures(2))
        drawn = pipeline.sample(
            background, masks(2), torch.tensor([0, 1]), guess=None, start="noise", strength=1.0, num_inference_steps=3,
            farm="input", background_mode="x0_blend", generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        inside = pipeline.latent_mask(masks(2)).bool().expand_as(drawn)
        torch.testing.assert_close(drawn[~inside], background[~inside], atol=1e-5, rtol=1e-5)
        assert (drawn[inside] - background[inside]).abs().mean() > 0.1

    def test_an_image_does_not_depend_on_its_batch(self, base):
        alone, together = draw(build(base), 1), draw(build(base), 3)
        torch.testing.assert_close(alone[0], together[0], atol=1e-4, rtol=1e-4)


class TestCost:
    @pytest.mark.parametrize(("scale", "calls"), [(1.0, 3), (2.5, 6)])
    def test_one_call_of_the_unet_per_step_and_two_with_guidance(self, base, scale, calls, monkeypatch):
        pipeline = build(base)
        counted = Calls(pipeline, monkeypatch)
        draw(pipeline, guidance_scale=scale)
        assert counted.unet == calls
        assert counted.decoded == [2], "one batch: the drawn latents"
        extra = [1] * pipeline.inpainting  # the grey an inpainting UNet is shown
        assert counted.encoded == [1, 1, *extra]
        draw(pipeline, guidance_scale=scale)
        assert counted.encoded == [1, 1, *extra], "known pictures are not encoded again"
        assert counted.unet == 2 * calls
        assert counted.text == 2 + (scale > 1), "nor are prompts"

    def test_another_process_finds_latents_and_text_on_disk(self, sd, tmp_path, monkeypatch):
        first = build(sd)
        first.cache_in(tmp_path)
        before = draw(first)
        second = build(sd)
        second.cache_in(tmp_path)
        counted = Calls(second, monkeypatch)
        assert torch.equal(before, draw(second))
        assert (counted.encoded, counted.text) == ([], 0)

    def test_other_weights_find_nothing_on_disk(self, sd, tmp_path, monkeypatch):
        first = build(sd)
        first.cache_in(tmp_path)
        draw(first)
        second = build(sd)
        with torch.no_grad():
            second.vae.encoder.conv_in.weight.add_(0.1)
            second.tokens.vectors.add_(0.1)
        second.cache_in(tmp_path)
        counted = Calls(second, monkeypatch)
        draw(second)
        assert (counted.encoded, counted.text) == ([1, 1], 2)


class TestParts:
    def test_an_inpainting_unet_sees_latent_mask_and_the_masked_background(self):
        background, grey = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 5.0)
        mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        channels = inpainting_channels(background, mask, grey)
        assert channels.shape == (1, 5, 2, 2)
        assert channels[0, 0].tolist() == [[1, 0], [0, 0]]
        assert channels[0, 1:, 0, 0].tolist() == [5] * 4
        assert channels[0, 1:, 1, 1].tolist() == [3] * 4

    def test_guidance_moves_the_prediction_along_what_the_prompt_changes(self, sd):
        pipeline = build(sd)
        x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
        outputs = []
        with torch.no_grad():
            for scale in (1.0, 2.0, 3.0):
                outputs.append(pipeline.denoiser(x, masks(1), torch.tensor([0]), guidance_scale=scale)(x, t))
        assert not torch.equal(outputs[0], outputs[1])
        torch.testing.assert_close(outputs[2] - outputs[1], outputs[1] - outputs[0], atol=1e-5, rtol=1e-3)

    def test_latents_have_the_scale_diffusers_gives_them(self, sd):
        vae = build(sd).vae
        with torch.no_grad():
            raw = vae.encode(pictures(1)).latent_dist.mean
            torch.testing.assert_close(encode(vae, pictures(1)), raw * 0.18215)
            torch.testing.assert_close(decode(vae, raw * 0.18215), vae.decode(raw).sample)

    def test_a_tiny_autoencoder_can_stand_in(self, sd, tmp_path):
        tiny_taesd().save_pretrained(tmp_path)
        pipeline = build(sd, autoencoder=str(tmp_path))
        assert type(pipeline.vae).__name__ == "AutoencoderTiny"
        assert torch.isfinite(draw(pipeline)).all()

    def test_crops_may_have_another_size_than_the_base(self, sd):
        pipeline = build(sd, size=12 * CELL)
        assert pipeline.size == 48
        assert draw(pipeline, size=48).shape == (2, 3, 48, 48)

    def test_bf16_weights_draw_nearly_the_same_picture(self, sd):
        full, half = draw(build(sd)), draw(build(sd, precision="bf16"))
        assert full.dtype == half.dtype == torch.float32
        assert 0 < (full - half).abs().mean() < 0.1

    def test_the_published_farm_wants_32_cells(self, sd):
        with pytest.raises(ValueError, match=f"use crop_size {32 * CELL} or base.farm improved"):
            build(sd, farm="published")
        pipeline = build(sd, farm="published", size=32 * CELL)
        assert sum(parameter.numel() for parameter in pipeline.farm.parameters()) == 1_863_144
        assert draw(pipeline, 1, size=128, num_inference_steps=1).shape == (1, 3, 128, 128)
