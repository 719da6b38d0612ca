"""The base: it survives the disk, is refused when damaged or foreign, and new tokens start from what it knows."""

import pytest
import torch

from fastsynth.diffusion.base import load_autoencoder
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.bundle import BUNDLED_BASE, CONTENTS, adapted_tokens, load_base, save_base
from fastsynth.diffusion.conditioning import NORMAL, DefectTokens
from fastsynth.diffusion.config import BaseConfig, UNetConfig
from fastsynth.diffusion.pretrain_base import CATEGORY


@pytest.fixture
def bundle(pipeline, tmp_path):
    save_base(pipeline, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_it_comes_back_as_it_was_up_to_half_precision(bundle, build_pipeline):
    original = build_pipeline()
    base = load_base(bundle, autoencoder=original.vae)
    for name, part in base._asdict().items():
        wanted = getattr(original, name).state_dict()
        for key, value in part.state_dict().items():
            assert value.dtype == wanted[key].dtype
            torch.testing.assert_close(value, wanted[key].half().to(value.dtype), rtol=0, atol=0)


def test_the_weights_on_disk_take_half_the_bytes(bundle, pipeline):
    size = sum(path.stat().st_size for path in bundle.glob("*/*.safetensors"))
    values = sum(p.numel() for part in (pipeline.unet, pipeline.farm, pipeline.tokens) for p in part.parameters())
    assert size < 2.2 * values + 40_000  # headers


@pytest.mark.parametrize("part", ["unet", "farm", "tokens"])
def test_a_damaged_or_missing_part_is_refused_by_name(bundle, pipeline, part):
    (path,) = (bundle / part).glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
        load_base(bundle, autoencoder=pipeline.vae)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name}: these weights are missing"):
        load_base(bundle, autoencoder=pipeline.vae)


def test_an_empty_folder_is_refused(tmp_path, pipeline):
    with pytest.raises(FileNotFoundError, match=rf"no base here \({CONTENTS} is missing\)"):
        load_base(tmp_path, autoencoder=pipeline.vae)


def test_a_base_of_another_autoencoder_is_refused(bundle, pipeline):
    with torch.no_grad():
        next(pipeline.vae.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="trained with another autoencoder"):
        load_base(bundle, autoencoder=pipeline.vae)


def test_new_tokens_start_near_the_known_defects_and_normals_as_the_known_normal():
    base = DefectTokens([["surface", f"kind{i}"] for i in range(50)], num_tokens=2, cross_attention_dim=8)
    tokens = adapted_tokens(base, [("tile", f"type{i}") for i in range(200)], seed=0)
    known, new = base.tokens[:50], tokens.tokens[:200]
    torch.testing.assert_close(new.mean(0), known.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(new.std(0), known.std(0), rtol=0.25, atol=0)
    torch.testing.assert_close(tokens.tokens[tokens.index("tile", NORMAL)], base.tokens[50])
    again = adapted_tokens(base, [("tile", f"type{i}") for i in range(200)], seed=0)
    assert torch.equal(again.tokens, tokens.tokens)


def test_a_pipeline_from_a_base_draws_what_the_base_draws_for_the_same_tokens(bundle, build_pipeline, tmp_path):
    original = build_pipeline()
    original.vae.save_pretrained(tmp_path / "autoencoder")
    pipeline = new_pipeline(
        [("tile", "crack"), ("tile", "dent")],
        autoencoder=tmp_path / "autoencoder",
        pretrained=bundle,
        fresh=UNetConfig(),
        size=32,
        kernel="exact",
        spacing="logsnr",
        solver_order=2,
        seed=0,
    )
    with torch.no_grad():
        pipeline.tokens.tokens.copy_(original.tokens.tokens)
    x = torch.randn((1, 72, 4, 4), generator=torch.Generator().manual_seed(0))
    step, rows = torch.tensor(500), torch.tensor([0])
    drawn = [p.unet(x, step, p.tokens(rows)).sample for p in (pipeline, original)]
    torch.testing.assert_close(*drawn, atol=5e-3, rtol=1e-2)


def test_the_shipped_base_is_small_whole_and_made_for_the_shipped_autoencoder():
    base = load_base(BUNDLED_BASE, autoencoder=load_autoencoder(None))
    assert sum(p.numel() for p in base.unet.parameters()) <= 20e6
    weights = BUNDLED_BASE.parent
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) <= 50e6
    assert {category for category, _ in base.tokens.entries} == {CATEGORY}
    assert (BUNDLED_BASE / "README.md").is_file()


def test_the_shape_of_a_fresh_unet_is_no_setting_of_a_pretrained_one():
    with pytest.raises(ValueError, match="set pretrained to null"):
        BaseConfig(fresh=UNetConfig(token_width=32))
    assert BaseConfig(pretrained=None, fresh=UNetConfig(token_width=32)).fresh.token_width == 32
    assert BaseConfig().pretrained == "bundled"
