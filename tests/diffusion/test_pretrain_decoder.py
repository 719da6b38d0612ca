"""Laws of the decoder's finish: the latents stay, an interruption leaves no trace, and the recipe can be read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastsynth.config import load_config
from fastsynth.diffusion import adversarial
from fastsynth.diffusion.base import latent_mask, load_autoencoder
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.bundle import load_base, save_base
from fastsynth.diffusion.config import UNetConfig
from fastsynth.diffusion.defects import KINDS
from fastsynth.diffusion.pretrain_base import CATEGORY, base_views
from fastsynth.diffusion.pretrain_decoder import DecoderConfig, fidelity, finish, redraw

SHIPPED_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "decoder.yaml"


@pytest.fixture
def pipeline(tiny_autoencoder, tmp_path):
    tiny_autoencoder.half().save_pretrained(tmp_path / "autoencoder")  # as `pretrain` leaves it
    return new_pipeline(
        [(CATEGORY, kind) for kind in KINDS],
        autoencoder=tmp_path / "autoencoder",
        pretrained=None,
        fresh=UNetConfig(block_out_channels=(16, 16), token_width=16, layers_per_block=1),
        size=32,
        kernel="exact",
        spacing="logsnr",
        solver_order=2,
        seed=0,
    )


@pytest.fixture
def config_of(pipeline, tmp_path):
    save_base(pipeline, tmp_path / "bundle")

    def build(output: str) -> DecoderConfig:
        return DecoderConfig(
            output=tmp_path / output, autoencoder=tmp_path / "autoencoder", base=tmp_path / "bundle",
            crop_size=32, views=5, num_inference_steps=2, steps=4, batch_size=2, save_every=2,
        )  # fmt: skip

    return build


class TestFinish:
    def test_the_decoder_learns_and_the_encoder_stays_so_the_base_still_fits(self, config_of, tmp_path):
        before = load_autoencoder(tmp_path / "autoencoder")
        after = load_autoencoder(finish(config_of("run")))
        for name, value in before.state_dict().items():
            same = torch.equal(after.state_dict()[name], value)
            assert same == (not name.startswith("decoder.")), name
        load_base(tmp_path / "bundle", autoencoder=after)

    def test_a_killed_and_resumed_finish_equals_an_uninterrupted_one(self, config_of, monkeypatch):
        straight = load_autoencoder(finish(config_of("straight")))
        parts, whole = config_of("parts"), adversarial.save_checkpoint

        def save_then_die(*arguments, **options):
            whole(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(adversarial, "save_checkpoint", save_then_die)
            with pytest.raises(KeyboardInterrupt):
                finish(parts)
        half_way = load_autoencoder(parts.output / "model").state_dict()
        resumed = load_autoencoder(finish(parts)).state_dict()
        for name, value in straight.state_dict().items():
            torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0, msg=name)
        assert any(not torch.equal(half_way[name], value) for name, value in resumed.items())


class TestRedraw:
    @pytest.fixture
    def views(self):
        return list(base_views(count=3, size=32, sound=False, rng=np.random.default_rng(0)))

    def test_only_what_the_mask_touches_is_redrawn(self, pipeline, views):
        found = redraw(views, pipeline, strength=0.5, steps=2, seed=0)
        inside = latent_mask(found.mask_images.float()).expand_as(found.own) > 0
        assert torch.equal(found.own[~inside], found.redrawn[~inside])
        assert (found.own != found.redrawn)[inside].float().mean() > 0.9

    def test_the_less_of_the_diffusion_time_the_nearer_to_the_own_latents(self, pipeline, views):
        distances = []
        for strength in (0.02, 0.1, 0.4):
            found = redraw(views, pipeline, strength=strength, steps=2, seed=0)
            distances.append((found.own - found.redrawn).float().square().mean())
        assert distances == sorted(distances)

    def test_a_batch_takes_the_latents_it_is_told_to(self, pipeline, views):
        found = redraw(views, pipeline, strength=0.5, steps=2, seed=0)
        _, _, latents = found.batch(np.array([2, 0]), redrawn=np.array([True, False]))
        assert torch.equal(latents, torch.stack([found.redrawn[2], found.own[0]]).float())


def test_in_redrawn_views_only_the_means_of_cells_count():
    pictures = torch.zeros(2, 3, 16, 16)
    checks = torch.ones(2, 3, 16, 16)
    checks[..., ::2] = -1  # as far from the pictures as can be, and equal to them on average
    far = fidelity(checks, pictures, redrawn=torch.tensor([True, False]))
    torch.testing.assert_close(far, torch.tensor([0.0, 1.0]))


def test_the_shipped_recipe_can_be_read():
    config = load_config(DecoderConfig, SHIPPED_CONFIG)
    assert config.steps > config.save_every
