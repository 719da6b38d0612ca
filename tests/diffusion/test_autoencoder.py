"""Laws of the compact autoencoder, and what the shipped weights must be able to do on pictures they never saw."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fastsynth.data.datasets import open_dataset
from fastsynth.diffusion.autoencoder import LATENT_LIMIT, CompactAutoencoder
from fastsynth.diffusion.base import BUNDLED_AUTOENCODER, load_autoencoder
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.crop import Crop, ValueRange, cut, to_model
from fastsynth.noise import white_noise

DATA = Path(__file__).resolve().parents[2] / "data"


def pictures(count=2, height=32, width=32) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestShapes:
    @pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 40), (56, 8), (32, 72)])
    def test_any_multiples_of_8_come_back_as_they_went_in(self, tiny_autoencoder, height, width):
        with torch.no_grad():
            latents = tiny_autoencoder.encode(pictures(3, height, width)).latents
            decoded = tiny_autoencoder.decode(latents).sample
        assert latents.shape == (3, 4, height // 8, width // 8)
        assert decoded.shape == (3, 3, height, width)

    @pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 36), (7, 7)])
    def test_other_sizes_are_refused(self, tiny_autoencoder, height, width):
        with pytest.raises(ValueError, match="pad height and width to multiples of 8"):
            tiny_autoencoder.encode(pictures(1, height, width))

    def test_forward_is_there_and_back(self, tiny_autoencoder):
        image = pictures()
        with torch.no_grad():
            wanted = tiny_autoencoder.decode(tiny_autoencoder.encode(image).latents).sample
            assert torch.equal(tiny_autoencoder(image).sample, wanted)


class TestLatents:
    def test_while_training_every_channel_has_mean_0_and_variance_1(self, tiny_autoencoder):
        latents = tiny_autoencoder.train().encode(pictures(8, 64, 64)).latents
        values = latents.detach().transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.var(1), torch.ones(4), atol=0.05, rtol=0)

    def test_in_eval_mode_a_picture_does_not_depend_on_its_batch(self, tiny_autoencoder):
        image = pictures(3)
        with torch.no_grad():
            together = tiny_autoencoder(image).sample
            for i in range(3):
                torch.testing.assert_close(tiny_autoencoder(image[i : i + 1]).sample[0], together[i], atol=1e-5, rtol=0)

    def test_the_decoder_squashes_wild_latents_and_leaves_common_ones(self, tiny_autoencoder):
        wild = torch.full((1, 4, 4, 4), 100.0)
        with torch.no_grad():
            torch.testing.assert_close(
                tiny_autoencoder.decode(wild).sample, tiny_autoencoder.decoder(torch.full_like(wild, LATENT_LIMIT))
            )
            common = torch.full((1, 4, 4, 4), 0.1)
            torch.testing.assert_close(
                tiny_autoencoder.decode(common).sample, tiny_autoencoder.decoder(common), atol=1e-3, rtol=0
            )


def test_a_loaded_autoencoder_gives_the_same_pictures(tiny_autoencoder, tmp_path):
    with torch.no_grad():
        tiny_autoencoder.train()(pictures())  # moves the statistics of the whitening
        tiny_autoencoder.eval().save_pretrained(tmp_path)
        loaded = CompactAutoencoder.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(pictures()).sample, tiny_autoencoder(pictures()).sample)
    assert loaded.config["latent_channels"] == 4


@pytest.fixture(scope="module")
def shipped() -> CompactAutoencoder:
    return load_autoencoder(None)


def _lines(side: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rough surface, the same with a dark line of one pixel across, and the line."""
    rng = np.random.default_rng(seed)
    surface = 128 + 6 * white_noise((side, side), blur=(0.8, 0.8), rng=rng)
    y = (rng.uniform(0.1, 0.9, 2) * side).astype(int).tolist()
    line = cv2.line(np.zeros((side, side), np.uint8), (3, y[0]), (side - 4, y[1]), 1, 1) > 0
    clean = np.clip(surface, 0, 255).astype(np.uint8)[..., None]
    return clean, np.where(line[..., None], clean - 50, clean).astype(np.uint8), line


class TestShippedWeights:
    def test_they_are_small(self, shipped):
        assert sum(p.numel() for p in shipped.parameters()) <= 4e6
        assert sum(path.stat().st_size for path in BUNDLED_AUTOENCODER.rglob("*")) <= 8e6

    @pytest.mark.data
    @pytest.mark.parametrize("normal", [True, False])
    @pytest.mark.parametrize("name", ["magnetic_tile", "busi_part"])
    def test_they_rebuild_real_crops_at_30_db(self, shipped, name, normal):
        """128 px at native scale: around the middle of normal images, and around that of defects."""
        if not (DATA / name).is_dir():
            pytest.skip(f"data/{name} is not here")
        records = [record for record in open_dataset(DATA / name).records if (record.mask is None) is normal]
        ratios = []
        for record in records[:: len(records) // 12]:
            image = read_image(DATA / name / record.image)
            shown = np.ones(image.shape[:2], bool) if record.mask is None else read_mask(DATA / name / record.mask)
            top, left = (round(place.mean()) - 64 for place in np.nonzero(shown))
            crop = cut(image, Crop(left, top, 128))
            target = torch.from_numpy(to_model(crop, size=128, values=ValueRange.of(image)))[None]
            with torch.no_grad():
                error = (shipped(target).sample.clamp(-1, 1) - target).square().mean()
            ratios.append(float(10 * torch.log10(4 / error)))
        assert len(ratios) >= 12
        assert np.mean(ratios) >= 30

    @pytest.mark.parametrize(("side", "kept"), [(128, 0.28), (64, 0.5)])
    def test_a_dark_line_of_one_pixel_keeps_part_of_its_contrast(self, shipped, side, kept):
        """At native scale a third, twice enlarged more than half: one reason why crops zoom into small defects."""
        for seed in range(3):
            clean, cracked, line = _lines(side, seed)
            batch = np.stack([to_model(image, size=128, values=ValueRange(0, 255)) for image in (clean, cracked)])
            with torch.no_grad():
                decoded = shipped(torch.from_numpy(batch)).sample.mean(1).numpy() * 127.5
            rebuilt = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in decoded]
            assert (rebuilt[0] - rebuilt[1])[line].mean() >= kept * 50
