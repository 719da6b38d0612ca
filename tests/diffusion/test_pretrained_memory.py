"""The memory estimate: counted on shapes alone, and a sentence that says what would fit."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from fastsynth.diffusion.pretrained.memory import (
    BASES,
    TrainingPlan,
    available_bytes,
    estimate_bytes,
    kept_activations,
    memory_message,
    meta_unet,
)

TINY = {
    "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "cross_attention_dim": 16,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8, "norm_num_groups": 4,
}  # fmt: skip
PLAN = TrainingPlan(crop_size=64, batch_size=2, unet="full", lora_rank=2)


def test_the_table_s_unet_has_the_published_number_of_weights():
    assert sum(parameter.numel() for parameter in meta_unet(BASES["SD 1.x"][0]).parameters()) == 859_520_964


def test_shapes_alone_give_what_a_real_forward_pass_keeps():
    real = kept_activations(UNet2DConditionModel.from_config(TINY), PLAN)
    shapes = kept_activations(meta_unet(TINY), PLAN)
    assert shapes.plain == pytest.approx(real.plain, rel=0.1)
    assert 0 < shapes.checkpointed < shapes.plain


def test_what_is_asked_for_less_needs_less():
    full = estimate_bytes(TINY, PLAN)
    for cheaper in (
        {"unet": "lora"}, {"unet": "frozen"}, {"precision": "bf16"}, {"optimizer": "adamw_8bit"},
        {"gradient_checkpointing": True}, {"batch_size": 1}, {"crop_size": 32},
    ):  # fmt: skip
        assert estimate_bytes(TINY, replace(PLAN, **cheaper)) < full, cheaper
    twice = kept_activations(meta_unet(TINY), replace(PLAN, batch_size=4)).plain
    assert twice == pytest.approx(2 * kept_activations(meta_unet(TINY), PLAN).plain, rel=0.05)


def gigabytes(_config, plan: TrainingPlan) -> float:
    """9.4 GB for the whole UNet at 256 px, 7.1 at 192, 5 with low-rank corrections."""
    return (9.4e9 if plan.crop_size == 256 else 7.1e9) - 4.4e9 * (plan.unet == "lora")


def test_a_plan_that_does_not_fit_is_told_what_would():
    plan = TrainingPlan(crop_size=256, batch_size=1, unet="full", precision="bf16", gradient_checkpointing=True)
    message = memory_message(TINY, plan, available=8e9, estimate=gigabytes)
    assert message == (
        "training needs about 9.4 GB (estimated), the device has 8.0: try training.unet lora (5.0 GB) or "
        "crop_size 192 (7.1 GB) or precision bf16, gradient_checkpointing, lora and batch_size 1 together (5.0 GB)"
    )
    assert memory_message(TINY, plan, available=10e9, estimate=gigabytes) is None
    hopeless = memory_message(TINY, plan, available=1e9, estimate=gigabytes)
    assert hopeless.endswith("use a larger device or a smaller base")


def test_only_gpus_have_a_limit():
    assert available_bytes(torch.device("cpu")) is None
