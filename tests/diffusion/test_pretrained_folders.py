"""Where a base comes from: a folder never touches the network, and what is missing is said in one sentence."""

import json
import shutil
import socket

import pytest
import torch
from diffusers import UNet2DModel
from pretrained_bases import save_base, tiny_taesd

from fastsynth.diffusion.pretrained.folders import load_autoencoder, load_base, locate


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("sd"), "sd")


@pytest.fixture
def copy(sd, tmp_path):
    return shutil.copytree(sd, tmp_path / "base")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def one_sentence(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


class TestLocate:
    def test_a_folder_is_itself_and_loads_without_network(self, sd, no_network):
        assert locate(str(sd), download=True) == sd
        assert load_base(sd, dtype=torch.float32).schedule["beta_end"] == 0.012

    @pytest.mark.parametrize("download", [True, False])
    def test_a_hub_id_on_an_offline_machine_says_which_files_to_put_where(self, download, no_network, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError) as error:
            locate("nobody/nothing-of-this-name", download=download)
        message = one_sentence(error)
        assert "model_index.json, unet/, vae/" in message
        assert ("base.download: true" in message) == (not download)

    def test_a_path_that_is_no_folder_is_not_looked_up(self, no_network, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such folder; put there model_index\.json"):
            locate(str(tmp_path / "absent"), download=True)


class TestLoad:
    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
    def test_a_missing_part_is_named(self, copy, part):
        shutil.rmtree(copy / part)
        with pytest.raises(FileNotFoundError, match=f"its {part} is missing; put model_index.json") as error:
            load_base(copy, dtype=torch.float32)
        one_sentence(error)

    def test_missing_weights_are_a_missing_file(self, copy):
        (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="no complete UNet2DConditionModel") as error:
            load_base(copy, dtype=torch.float32)
        one_sentence(error)

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
            load_base(tmp_path, dtype=torch.float32)

    @pytest.mark.parametrize(
        ("file", "key", "value", "complaint"),
        [
            ("unet/config.json", "addition_embed_type", "text_time", "SDXL is not one of them"),
            ("scheduler/scheduler_config.json", "rescale_betas_zero_snr", True, "plain schedule"),
            ("scheduler/scheduler_config.json", "beta_schedule", "squaredcos_cap_v2", "beta_schedule is"),
            ("model_index.json", "text_encoder", ["transformers", "T5EncoderModel"], "is a T5EncoderModel"),
            ("model_index.json", "unet", ["diffusers", "UNet2DModel"], "is a UNet2DModel"),
        ],
    )  # fmt: skip
    def test_a_base_fast_cannot_stand_on_is_refused(self, copy, file, key, value, complaint):
        config = json.loads((copy / file).read_text())
        if key == "addition_embed_type":  # saved weights would lack its layers: what counts is the width of the text
            config |= {"cross_attention_dim": 8}
        else:
            config[key] = value
        (copy / file).write_text(json.dumps(config))
        if key == "addition_embed_type":
            shutil.rmtree(copy / "unet")
            _other_width(copy)
        with pytest.raises(ValueError, match=complaint) as error:
            load_base(copy, dtype=torch.float32)
        one_sentence(error)

    def test_another_kind_of_autoencoder_is_refused(self, tmp_path):
        UNet2DModel(
            block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
            norm_num_groups=4, sample_size=8,
        ).save_pretrained(tmp_path)  # fmt: skip
        with pytest.raises(ValueError, match="use an AutoencoderKL, AutoencoderTiny or VQModel"):
            load_autoencoder(tmp_path, dtype=torch.float32)

    def test_everything_loaded_is_frozen_and_of_the_wanted_precision(self, sd, tmp_path):
        tiny_taesd().save_pretrained(tmp_path)
        base = load_base(sd, dtype=torch.bfloat16, autoencoder=tmp_path)
        for module in (base.unet, base.vae, base.text_encoder):
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())
            assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def _other_width(folder) -> None:
    """A UNet that wants text of width 8 in the place of the base's."""
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")  # fmt: skip
