"""Laws of building, saving and loading segmenters."""

import pytest
import torch

from fastsynth.augment import A, build_augmentation
from fastsynth.augment_config import AugmentConfig
from fastsynth.offline import ENCODER_NAME, PACKAGE, offline_trunk
from segment.models import build_segmenter, load_segmenter, save_segmenter

TINY = {"encoder_name": "tu-mobilenetv3_small_050", "encoder_weights": None, "decoder_channels": (16, 16, 8, 8, 8)}


def tiny(**changes):
    return build_segmenter(**({"arch": "Unet", **TINY, "seed": 0} | changes))


def test_one_logit_per_pixel():
    assert tiny().eval()(torch.zeros(2, 3, 64, 32)).shape == (2, 1, 64, 32)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = tiny(), tiny(), tiny(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_offline_weights_give_the_features_of_the_offline_trunk():
    pytest.importorskip(PACKAGE, reason="needs the extra `offline`")
    model = build_segmenter(
        arch="Unet", encoder_name=ENCODER_NAME, encoder_weights="offline", decoder_channels=(8, 8, 8, 8, 8), seed=0
    ).eval()
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = model.encoder(picture)[1:]
        expected = offline_trunk(out_indices=(0, 1, 2, 3, 4))(picture)
    assert len(features) == len(expected) == 5
    for got, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_saved_segmenter_loads_to_the_same_map(tmp_path):
    model = tiny().eval()
    save_segmenter(model, tmp_path, threshold=0.375, augmentation=build_augmentation(AugmentConfig()))
    loaded = load_segmenter(tmp_path)
    picture = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    assert torch.equal(loaded.model(picture), model(picture))
    assert loaded.threshold == 0.375
    assert not loaded.model.training
    assert isinstance(A.load(tmp_path / "augmentation.json"), A.Compose)


def test_hub_weights_are_not_fetched_again_when_loading(tmp_path):
    model = tiny()
    model.config["encoder_weights"] = "imagenet"
    save_segmenter(model, tmp_path, threshold=0.5, augmentation=A.Compose([]))
    loaded = load_segmenter(tmp_path).model
    assert torch.equal(next(loaded.parameters()), next(model.parameters()))


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"arch": "Umet"}, "did you mean Unet"),
        ({"arch": "Linknet"}, "takes no decoder_channels"),
        ({"encoder_name": "resnet9000"}, "resnet9000"),
        ({"decoder_channels": (8, 8)}, "decoder_channels"),
        ({"encoder_weights": "offline"}, "are those of tu-tf_efficientnet_lite0"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, hint):
    with pytest.raises(ValueError, match=hint):
        tiny(**changes)


def test_a_folder_without_segmenter_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no segmenter here"):
        load_segmenter(tmp_path)
