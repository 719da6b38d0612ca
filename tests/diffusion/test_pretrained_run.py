"""A run on a pretrained base, through the same functions as every other: train, generate, replay, audit."""

from pathlib import Path

import pytest
from pretrained_bases import save_base

from fastsynth.config import load_config, parse_config
from fastsynth.recipes.rendering import audit_store, generate, replay_to, train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")


def values(tree: Path, output: Path, base: Path, **of_base) -> dict:
    return {
        "output": str(output),
        "device": "cpu",
        "data": {"root": str(tree)},
        "renderer": {
            "base": {"kind": "diffusers", "pretrained": str(base), "tokens_per_category": 1, "tokens_per_defect": 1}
            | of_base,
            "training": {"unet": "lora", "lora_rank": 2, "max_train_steps": 2, "batch_size": 2, "defect_crops": 4,
                         "normal_crops": 2},
            "crop_size": 32, "num_inference_steps": 2, "start": "noise",
        },
        "generate": {"count": 2, "gate": {"enabled": False}},
    }  # fmt: skip


def test_train_generate_replay_and_audit(shared_tree, tmp_path):
    config = values(shared_tree, tmp_path / "run", save_base(tmp_path / "base", "sd"))
    run = Run(parse_config(RunConfig, config, source="test"))
    model = train_renderer(run)
    assert (model / "learned_embeds" / "tile+crack.safetensors").is_file()
    assert (model / "lora" / "pytorch_lora_weights.safetensors").is_file()
    generate(run)
    assert audit_store(run).problems == []
    assert replay_to(run, 1, tmp_path / "again.png"), "the same bytes"
    config["renderer"]["guidance_scale"] = 2.0
    Run(parse_config(RunConfig, config, source="test"))  # sampling may change after training
    config["renderer"]["base"]["tokens_per_defect"] = 3
    with pytest.raises(ValueError, match=r"is trained with renderer\.base\.tokens_per_defect 1"):
        Run(parse_config(RunConfig, config, source="test"))


class TestSettings:
    def test_fp16_without_a_gpu_is_refused_before_anything_is_loaded(self, shared_tree, tmp_path):
        config = values(shared_tree, tmp_path / "run", tmp_path / "absent", precision="fp16")
        with pytest.raises(ValueError, match=r"base.precision is fp16, which needs a GPU"):
            train_renderer(Run(parse_config(RunConfig, config, source="test")))

    def test_a_base_of_diffusers_is_told_from_the_compact_one_by_its_kind(self):
        for base, wrong in (({"kind": "diffusers"}, "'renderer.base.pretrained' is missing"),
                            ({"kind": "diffusers", "pretrained": "x", "promt": "y"}, "did you mean 'prompt'"),
                            ({"fresh": {"token_widht": 3}}, "did you mean 'token_width'"),
                            ({"kind": "diffusers", "pretrained": "x", "prompt": "y"}, "no {defect}")):  # fmt: skip
            with pytest.raises(ValueError, match=wrong):
                parse_config(RunConfig, {"output": "o", "data": {"root": "d"}, "renderer": {"base": base}}, source="t")

    def test_the_preset_of_the_paper_differs_from_the_published_sampler_by_its_kernel_alone(self):
        from fastsynth.diffusion.aias import AIASScheduler

        settings = load_config(RunConfig, CONFIGS / "fast_paper.yaml").renderer
        assert (settings.kernel, settings.spacing, settings.solver_order) == ("exact", "uniform", 1)
        scheduler = AIASScheduler(spacing=settings.spacing, solver_order=settings.solver_order)
        scheduler.set_timesteps(settings.num_inference_steps)
        steps = scheduler.timesteps.tolist()
        assert steps[:6] == [999, 978, 957, 936, 915, 895]  # the authors' list
        assert steps[-5:] == [63, 42, 21, 1, 0]
        assert len(steps) == 50
