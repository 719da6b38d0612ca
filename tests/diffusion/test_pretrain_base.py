"""The base's pretraining: its views, and the loop from nothing to a pipeline that draws."""

from collections import Counter

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.diffusion.conditioning import NORMAL
from fastsynth.diffusion.defects import KINDS
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.pretrain_base import CATEGORY, BasePretrainConfig, base_views, pretrain
from fastsynth.files import sha256_folder

TINY = """
crop_size: 32
base:
  autoencoder: AUTOENCODER
  pretrained: null
  fresh: {block_out_channels: [16, 16], token_width: 16, layers_per_block: 1}
training: {max_train_steps: 4, batch_size: 4, defect_crops: 9, normal_crops: 4, save_every: 2}
"""


@pytest.fixture
def config_of(tiny_autoencoder, tmp_path):
    tiny_autoencoder.save_pretrained(tmp_path / "autoencoder")

    def build(output: str) -> BasePretrainConfig:
        path = tmp_path / "tiny.yaml"
        path.write_text(f"output: {tmp_path / output}" + TINY.replace("AUTOENCODER", str(tmp_path / "autoencoder")))
        return load_config(BasePretrainConfig, path)

    return build


def test_views_show_all_kinds_alike():
    views = list(base_views(count=2 * len(KINDS), size=32, sound=False, rng=np.random.default_rng(0)))
    assert Counter(view.defect for view in views) == dict.fromkeys(KINDS, 2)
    for view in views:
        assert view.category == CATEGORY
        assert view.picture.shape == (3, 32, 32)
        assert np.abs(view.picture).max() <= 1
        assert set(np.unique(view.mask_image)) <= {0, 1}
        assert view.mask_image.any()


def test_sound_views_are_normal():
    views = list(base_views(count=3, size=32, sound=True, rng=np.random.default_rng(0)))
    assert [view.defect for view in views] == [NORMAL] * 3


def test_an_interrupted_pretraining_ends_with_the_same_weights(config_of, monkeypatch):
    whole = pretrain(config_of("whole"))
    parts = config_of("parts")
    with monkeypatch.context() as patch:
        patch.setattr("fastsynth.diffusion.training.save_checkpoint", _save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(parts)
    resumed = pretrain(parts)
    assert sha256_folder(resumed, "*.safetensors") == sha256_folder(whole, "*.safetensors")
    pipeline = FASTPipeline.from_pretrained(resumed)
    assert pipeline.tokens.index(CATEGORY, "groove") >= 0


def _save_then_stop(accelerator, folder, *, step, made_from):
    from fastsynth.checkpoints import save_checkpoint

    save_checkpoint(accelerator, folder, step=step, made_from=made_from)
    raise KeyboardInterrupt
