"""Laws of the loop that both renderers share: they learn, interruptions leave no trace, stages hand on weights."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from generators import loop
from generators.batches import Batch
from generators.crn import CRN
from generators.crn_training import WinCounts
from generators.layout_model import LayoutModel
from generators.layout_warp import Warp
from generators.loop import decay_factor
from generators.losses import win_shares
from generators.pairs import PairSource
from generators.pix2pixhd import Pix2PixHDGenerator


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-6, rtol=0, msg=name)


def kill_at(step: int):
    """Log lines come every 10 steps and at the end of a stage; steps count on over the stages."""

    def log(values):
        if values["step"] == step:
            raise Killed

    return log


class InTurn:
    """A source of the same few batches, over and over."""

    def __init__(self, source: PairSource, batches: list[Batch]) -> None:
        self.class_names, self.samples, self.batches = source.class_names, source.samples, itertools.cycle(batches)

    def draw(self, count: int, *, shrink: int, rng: np.random.Generator) -> Batch:
        batch = next(self.batches)
        assert (len(batch.labels), shrink) == (count, 1)
        return batch


@pytest.fixture(params=["crn", "pix2pixhd"])
def fit(request, fit_crn, fit_pix2pixhd):
    return {"crn": fit_crn, "pix2pixhd": fit_pix2pixhd}[request.param]


@pytest.fixture(params=["pairs", "crops"])
def source(request):
    return request.getfixturevalue(request.param)


class TestInterruption:
    def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(self, fit, source, weights, tmp_path):
        """Killed in its second stage, after step 10 of 11, whose last checkpoint is that of step 8."""
        straight = fit(source, tmp_path / "straight", steps=(4, 11))
        with pytest.raises(Killed):
            fit(source, tmp_path / "killed", steps=(4, 11), log=kill_at(14))
        torch.manual_seed(99)  # another process: its global random state is another one
        resumed = fit(source, tmp_path / "killed", steps=(4, 11))
        assert_same(weights(straight), weights(resumed))
        assert straight.layer_weights == pytest.approx(resumed.layer_weights, rel=1e-5)

    def test_a_finished_training_is_not_continued(self, fit, pairs, weights, tmp_path):
        logged = []
        first = fit(pairs, tmp_path)
        again = fit(pairs, tmp_path, log=logged.append)
        assert logged == []
        assert_same(weights(first), weights(again))

    def test_pool_and_label_mix_and_noise_resume_too(self, fit_pix2pixhd, pairs, weights, tmp_path):
        for name, changes in (
            ("pool", {"pool_size": 3, "adversary": "hinge", "spectral_norm": True, "style": "none"}),
            ("segmenter", {"discriminator": "segmenter", "style": "noise"}),
        ):
            settings = {"steps": (11,), "warp": Warp(1.0, 3.0), **changes}
            straight = fit_pix2pixhd(pairs, tmp_path / name / "straight", **settings)
            with pytest.raises(Killed):
                fit_pix2pixhd(pairs, tmp_path / name / "killed", log=kill_at(10), **settings)
            resumed = fit_pix2pixhd(pairs, tmp_path / name / "killed", **settings)
            assert_same(weights(straight), weights(resumed))


SLOW_PAIR = {"style": "none", "learning_rate": 1e-4, "discriminator_learning_rate": 1e-4}
"""Two players, no bank; at higher rates the one enlarges rounding in the other."""


class TestLoop:
    @pytest.mark.parametrize(("kind", "extra"), [("crn", {}), ("pix2pixhd", SLOW_PAIR)])
    def test_a_batch_in_parts_teaches_what_it_teaches_as_a_whole(
        self, kind, extra, pairs, weights, tmp_path, monkeypatch, request
    ):
        """Both norm each sample by itself. By plain gradient descent, since Adam is blind to a gradient's size."""
        monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, betas: torch.optim.SGD(parameters, lr=lr))
        fit = request.getfixturevalue(f"fit_{kind}")
        batch, logged = pairs.draw(4, shrink=1, rng=np.random.default_rng(0)), []
        halves = [batch.part(slice(0, 2)), batch.part(slice(2, 4))]
        changes = {"steps": (3,), "calibration_steps": 0, "ema_decay": 0.0, "log": logged.append} | extra
        whole = fit(InTurn(pairs, [batch]), tmp_path / "whole", batch_size=4, **changes)
        changes |= {"batch_size": 2, "gradient_accumulation_steps": 2}
        assert_same(weights(whole), weights(fit(InTurn(pairs, halves), tmp_path / "parts", **changes)))
        assert [values["step"] for values in logged] == [3, 3]

    def test_rates_stay_and_then_fall_to_nothing(self):
        factors = [decay_factor(step, steps=10, decay_share=0.5) for step in range(10)]
        np.testing.assert_allclose(factors, [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
        assert {decay_factor(step, steps=10, decay_share=0) for step in range(10)} == {1.0}

    def test_sheets_and_checkpoints_are_written(self, fit, pairs, tmp_path):
        fit(pairs, tmp_path, steps=(6,), sample_every=3)
        stage = tmp_path / "stage-1"
        assert sorted(path.name for path in stage.glob("samples/*")) == ["step-000003.png", "step-000006.png"]
        assert sorted(path.name for path in stage.glob("checkpoints/*")) == ["checkpoint-4", "checkpoint-6"]


class TestCRN:
    def test_it_learns_the_layouts_and_every_output_wins_something(self, fit_crn, pairs, tmp_path):
        logged = []
        model = fit_crn(pairs, tmp_path, steps=(120,), batch_size=4, calibration_steps=0, log=logged.append)
        assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]
        wins = np.nanmean([np.array(values["wins"], float) for values in logged[4:]], axis=0)
        assert (wins.max(axis=1) > 0.05).all(), wins
        batch = pairs.samples(2, shrink=1)
        nearest = [colour_class(model, batch, i) for i in range(2)]
        assert np.mean([(found == batch.labels[i].numpy()).mean() for i, found in enumerate(nearest)]) > 0.8

    def test_a_stage_starts_from_the_modules_before_it(self, fit_crn, pairs, tmp_path):
        fit_crn(pairs, tmp_path, steps=(3, 1), learning_rate=1e-9, ema_decay=0.0)
        small, large = (CRN.from_pretrained(tmp_path / f"stage-{i}" / "generator") for i in (1, 2))
        assert [len(model.stages) for model in (small, large)] == [2, 3]
        for name, value in small.stages.state_dict().items():
            torch.testing.assert_close(value, large.stages.state_dict()[name], atol=1e-6, rtol=0)

    def test_layer_weights_are_found_frozen_and_kept(self, fit_crn, pairs, tmp_path):
        logged = []
        model = fit_crn(pairs, tmp_path, steps=(21,), calibration_steps=10, log=logged.append)
        assert logged[0]["lambda"] == [1.0] * 6
        assert logged[1]["lambda"] == logged[2]["lambda"] == pytest.approx(list(model.layer_weights))
        assert logged[1]["lambda"][0] == 1.0
        assert all(weight != 1.0 for weight in logged[1]["lambda"][1:])

    def test_more_stages_than_modules_are_refused(self, fit_crn, pairs, tmp_path):
        with pytest.raises(ValueError, match="3 stages grow 3 modules"):
            fit_crn(pairs, tmp_path, steps=(1, 1, 1))


class TestPix2PixHD:
    def test_it_learns_the_layouts(self, fit_pix2pixhd, pairs, tmp_path):
        logged = []
        model = fit_pix2pixhd(pairs, tmp_path, steps=(100,), batch_size=4, log=logged.append)
        assert logged[-1]["perceptual"] < 0.7 * logged[0]["perceptual"]
        assert all(np.isfinite(value) for values in logged for value in values.values() if isinstance(value, float))
        batch = pairs.samples(2, shrink=1)
        nearest = [colour_class(model, batch, i) for i in range(2)]
        assert np.mean([(found == batch.labels[i].numpy()).mean() for i, found in enumerate(nearest)]) > 0.7

    def test_mixed_precision_learns_as_full_precision_does(self, fit_pix2pixhd, pairs, tmp_path, monkeypatch):
        """bf16, as on most GPUs and some CPUs; the others run it too, slowly."""
        last = {}
        for kind in ("no", "bf16"):
            logged = []
            monkeypatch.setattr(loop, "training_precision", lambda device, kind=kind: kind)
            fit_pix2pixhd(pairs, tmp_path / kind, steps=(12,), batch_size=4, log=logged.append)
            last[kind] = logged[-1]
        assert Accelerator(cpu=True).mixed_precision == "no"  # of a segmenter that is trained next
        assert last["bf16"]["perceptual"] != last["no"]["perceptual"]
        assert last["bf16"]["perceptual"] == pytest.approx(last["no"]["perceptual"], rel=0.1)

    def test_noise_comes_to_show_the_looks_there_are(self, fit_pix2pixhd, pairs, tmp_path):
        """Doors are dark or bright: drawn towards every photo noise shows their mean, by its nearest draw both."""
        labels = pairs.samples(1, shrink=1).labels[0]
        spread = {}
        for draws in (1, 4):
            settings = {"style": "noise", "noise_draws": draws, "feature_weight": 0.0}
            model = fit_pix2pixhd(pairs, tmp_path / str(draws), steps=(60,), batch_size=4, **settings)
            red = [float(model.draw(labels, labels, seed=seed)[0, labels == 1].mean()) for seed in range(8)]
            spread[draws] = max(red) - min(red)
        assert spread[4] > 2 * spread[1]

    def test_its_renders_come_to_match_the_features_of_a_discriminator_at_rest(self, fit_pix2pixhd, pairs, tmp_path):
        logged, small = [], {"width": 24, "num_downsamples": 3, "num_blocks": 4}
        rest = {"discriminator_learning_rate": 1e-9, "perceptual_weight": 0.0}
        fit_pix2pixhd(pairs, tmp_path, steps=(30,), batch_size=4, generator=small, log=logged.append, **rest)
        assert logged[-1]["matching"] < 0.7 * logged[0]["matching"]

    def test_its_perceptual_term_starts_at_its_weight(self, fit_pix2pixhd, pairs, tmp_path):
        """As in the publication, where it stands beside feature matching with the same weight."""
        logged = []
        for weight in (10.0, 3.0):
            fit_pix2pixhd(pairs, tmp_path / str(weight), steps=(1,), perceptual_weight=weight, log=logged.append)
        assert [values["perceptual"] for values in logged] == [10.0, 3.0]

    @pytest.mark.parametrize(("upsampling", "kind"), [("resize", nn.Conv2d), ("transposed", nn.ConvTranspose2d)])
    def test_the_style_encoder_enlarges_as_the_generator_does(self, fit_pix2pixhd, pairs, tmp_path, upsampling, kind):
        shape = {"width": 8, "num_downsamples": 2, "num_blocks": 1}
        model = fit_pix2pixhd(pairs, tmp_path, steps=(1,), generator={**shape, "upsampling": upsampling})
        for part in (model.generator.global_generator, model.encoder):
            assert [isinstance(block.conv, kind) for block in part.up] == [True, True]

    @pytest.mark.parametrize("freeze_steps", [3, 6])
    def test_the_global_generator_rests_while_frozen_and_moves_after(
        self, fit_pix2pixhd, pairs, tmp_path, freeze_steps
    ):
        logged = []
        fit_pix2pixhd(pairs, tmp_path, steps=(2, 6), freeze_steps=freeze_steps, decay_share=0.5, log=logged.append)
        full = logged[0]["learning_rate"] / decay_factor(1, steps=2, decay_share=0.5)
        assert logged[-1]["learning_rate"] == pytest.approx(full * decay_factor(5, steps=6, decay_share=0.5))
        small, large = (Pix2PixHDGenerator.from_pretrained(tmp_path / f"stage-{i}" / "generator") for i in (1, 2))
        before, after = small.global_generator.state_dict(), large.global_generator.state_dict()
        moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
        assert bool(moved) == (freeze_steps < 6)
        if moved:
            assert len(moved) > 0.5 * len(before)
        fresh = small.grow()
        enhancers = large.enhancers.state_dict()
        assert any(not torch.equal(value, enhancers[name]) for name, value in fresh.enhancers.state_dict().items())

    def test_the_style_encoder_rests_in_later_stages(self, fit_pix2pixhd, pairs, tmp_path):
        fit_pix2pixhd(pairs, tmp_path, steps=(2, 2), freeze_steps=0)
        files = [tmp_path / f"stage-{i}" / "encoder" / "diffusion_pytorch_model.safetensors" for i in (1, 2)]
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_a_further_stage_adds_a_finer_patch_discriminator_or_keeps_the_segmenter(
        self, fit_pix2pixhd, pairs, tmp_path
    ):
        from generators.discriminators import MultiScaleDiscriminator

        fit_pix2pixhd(pairs, tmp_path, steps=(1, 1), discriminator_learning_rate=1e-9)
        few, more = (MultiScaleDiscriminator.from_pretrained(tmp_path / f"stage-{i}" / "discriminator") for i in (1, 2))
        assert [len(model.scales) for model in (few, more)] == [1, 2]
        for name, value in few.scales[0].state_dict().items():
            torch.testing.assert_close(value, more.scales[0].state_dict()[name], atol=1e-6, rtol=0)


def colour_class(model: LayoutModel, batch: Batch, index: int) -> np.ndarray:
    """(H, W) class whose hue a render is nearest to: an oracle that knows how the photos were drawn."""
    drawn = model.draw(batch.labels[index], batch.instances[index], seed=3).numpy()
    pixels = (drawn.transpose(1, 2, 0) + 1) * 127.5 + 1
    hues = pixels / np.linalg.norm(pixels, axis=2, keepdims=True)
    wanted = np.array([(40, 40, 200), (200, 60, 40), (60, 190, 90)], float)
    return (hues @ (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).T).argmax(2)


def test_lasting_shares_forget_slowly_and_start_again_where_they_were():
    wins, again = WinCounts(2, 3), WinCounts(2, 3)
    for step in range(600):
        wins.add(
            torch.tensor([[1, 1, 0], [0, 0, 0]]) if step < 300 else torch.tensor([[0, 1, 0], [1, 0, 0]]), step=step
        )
    first, always, never = zip(*wins.lasting_shares(), strict=True)
    left = 0.99**300  # of the first 300 steps, for each of the last
    assert first == pytest.approx((left / (1 + left), 1 / (1 + left)), rel=1e-4)
    assert (always, never) == ((1, 0), (0.5, 0.5))
    again.load_state_dict(wins.state_dict())
    assert again.lasting_shares() == wins.lasting_shares()


def test_win_shares_ignore_classes_that_were_not_there():
    assert win_shares(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).isnan().tolist() == [[False, True]] * 2


def test_folders_are_below_the_output(fit_crn, crops, tmp_path: Path):
    fit_crn(crops, tmp_path, steps=(1,))
    assert {path.name for path in tmp_path.iterdir()} == {"stage-1"}
