"""Laws of few-shot adaptation: what is frozen stays, corrections are low-rank and merged, held-out defects end it."""

import numpy as np
import pytest
import torch

from fastsynth.diffusion.adapting import HeldOutJudge
from fastsynth.diffusion.training import TrainedParts, held_out_loss, train_fast
from fastsynth.diffusion.views import EncodedViews
from tests.diffusion.test_training import SETTINGS, Killed, assert_same_weights, views, weights

HELD_OUT = {"held_out": views(5, rows=1, seed=2), "save_every": 4, "judge_every": 4}


def adapt(pipeline, output, *, log=lambda values: None, **changes):
    return train_fast(pipeline, views(6), views(3, rows=2, seed=1), output=output, log=log, **(SETTINGS | changes))


def test_a_frozen_unet_stays_while_farm_and_tokens_learn(pipeline, build_pipeline, tmp_path):
    adapt(pipeline, tmp_path, unet="frozen")
    before, after = weights(build_pipeline()), weights(pipeline)
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"farm", "tokens"}


def test_lora_changes_the_unet_by_matrices_of_its_rank_and_leaves_a_plain_unet(pipeline, build_pipeline, tmp_path):
    pytest.importorskip("peft", reason="the extra pretrained is not installed")
    adapt(pipeline, tmp_path, unet="lora", lora_rank=2)
    before, after = build_pipeline().unet.state_dict(), pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert any("to_q" in name for name in changed)
    assert any("conv1" in name for name in changed)
    for name in changed:
        difference = (after[name] - before[name]).flatten(1).double()
        assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 2, name


def test_the_kept_weights_have_the_loss_that_was_logged_as_the_least(pipeline, tmp_path):
    logged = []
    result = adapt(pipeline, tmp_path, log=logged.append, learning_rate=3e-2, max_train_steps=32, **HELD_OUT)
    losses = {entry["step"]: entry["held_out"] for entry in logged if "held_out" in entry}
    assert list(losses) == list(range(4, 33, 4))
    assert (result.steps, result.held_out_loss) == min(losses.items(), key=lambda item: item[1])
    kept = held_out_loss(TrainedParts(pipeline), HELD_OUT["held_out"], pipeline.scheduler, batch_size=4)
    assert kept == pytest.approx(result.held_out_loss, rel=1e-5)


def test_held_out_defects_are_judged_as_samples_are_drawn_without_farm(pipeline):
    def judged():
        return held_out_loss(TrainedParts(pipeline), HELD_OUT["held_out"], pipeline.scheduler, batch_size=4)

    before = judged()
    with torch.no_grad():
        for parameter in pipeline.farm.parameters():
            parameter.add_(1)
    assert judged() == before


def test_training_stops_when_held_out_defects_get_worse(pipeline, tmp_path):
    logged = []
    adapt(pipeline, tmp_path, log=logged.append, learning_rate=1.0, max_train_steps=400, patience=2, **HELD_OUT)
    losses = [entry["held_out"] for entry in logged if "held_out" in entry]
    assert len(losses) < 100
    assert np.argmin(losses) == len(losses) - 3


def test_an_interruption_changes_nothing_of_what_is_kept(build_pipeline, tmp_path):
    straight, killed, resumed = (build_pipeline() for _ in range(3))
    expected = adapt(straight, tmp_path / "straight", **HELD_OUT)

    def kill(values):
        if values["step"] == 10:
            raise Killed

    with pytest.raises(Killed):
        adapt(killed, tmp_path / "killed", log=kill, **HELD_OUT)
    result = adapt(resumed, tmp_path / "killed", **HELD_OUT)
    assert (result.steps, result.held_out_loss) == (expected.steps, expected.held_out_loss)
    assert_same_weights(resumed, straight)


def test_the_held_out_loss_does_not_depend_on_the_global_random_state(pipeline):
    parts, held_out = TrainedParts(pipeline), HELD_OUT["held_out"]
    first = held_out_loss(parts, held_out, pipeline.scheduler, batch_size=4)
    torch.manual_seed(5)
    assert held_out_loss(parts, held_out, pipeline.scheduler, batch_size=4) == first


def test_masks_decide_what_counts_as_held_out_loss(pipeline):
    parts = TrainedParts(pipeline)
    inside = views(2)
    everywhere = EncodedViews(inside.latents, torch.ones_like(inside.mask_images), inside.rows)
    losses = [held_out_loss(parts, v, pipeline.scheduler, batch_size=2) for v in (inside, everywhere)]
    assert losses[0] != losses[1]


def test_without_a_judgement_nothing_is_exhausted():
    assert not HeldOutJudge().exhausted(1)
    assert not HeldOutJudge().exhausted(None)
