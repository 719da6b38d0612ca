"""Laws of several processes: what they train together is what one process trains, and stopping stops all of them."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from fastsynth.files import read_json
from fastsynth.processes import process_count, process_index

STEP = """
import sys, torch
from accelerate import Accelerator
from fastsynth.parallel import own_slice, share_batch_statistics
from segment.losses import build_loss
from segment.models import build_segmenter
from segment.training import _step

accelerator = Accelerator(cpu=True)
model = build_segmenter(arch="Unet", encoder_name={encoder!r}, encoder_weights=None, decoder_channels=[16, 8, 8, 8, 8],
                        seed=0).train()
if accelerator.num_processes > 1:
    share_batch_statistics(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # its step is the gradient; Adam's would be a sign
model, optimizer = accelerator.prepare(model, optimizer)
generator = torch.Generator().manual_seed(1)
image = torch.randn((4, 3, 64, 64), generator=generator)
foreground = (torch.rand((4, 1, 64, 64), generator=generator) < torch.tensor([0, 0.02, 0.3, 0.6]).view(4, 1, 1, 1))
own = own_slice(accelerator, 4)
batch = dict(image=image[own], foreground=foreground[own].float())
loss = _step(model, batch, build_loss({loss!r}), optimizer=optimizer, accelerator=accelerator)
if accelerator.is_main_process:
    torch.save((loss, accelerator.unwrap_model(model).state_dict()), {path!r})
"""


LEARNING_RATE = 4e-4
STAGES = """
from pathlib import Path
import numpy as np
from fastsynth.recipes.layout_training import train_layout_model
from generators.batches import CropSource
from generators.layout_config import Pix2PixHDConfig

rng = np.random.default_rng(0)
pictures, masks = rng.integers(0, 256, (6, 3, 32, 32)).astype(np.uint8), np.zeros((6, 1, 32, 32), np.uint8)
masks[:, :, 8:20, 8:24] = 1
settings = Pix2PixHDConfig.model_validate(dict(
    crop_size=32,
    network=dict(width=4, num_downsamples=2, num_blocks=1, num_enhancer_blocks=1, encoder_width=2,
                 encoder_downsamples=2, style_channels=2),
    training=dict(stage_steps=[2, 4], batch_size=2, trunk="random", calibration_steps=1, freeze_steps=2, save_every=10,
                  learning_rate={rate}, discriminator_learning_rate={rate}, discriminator_width=4, num_scales=1,
                  sample_every=10),
))
source = CropSource(pictures, masks, np.ones_like(masks), np.array([2, 3] * 3),
                    class_names=("background", "object", "a", "b"), normal_share=0.0)
model, _ = train_layout_model(settings, source, output=Path({output!r}), seed=0, made_from="", device="cpu",
                              log=lambda values: None)
"""


def test_a_process_that_nobody_launched_is_the_only_one():
    assert "RANK" not in os.environ
    assert (process_index(), process_count()) == (0, 1)


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "lovasz"])
def test_a_segmenter_step_of_two_processes_equals_one_of_one(loss, cli, tmp_path):
    """With batch norms over the global batch, and a loss that is no mean over samples: one crop shows no defect."""
    found = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.pt"
        program = STEP.format(path=str(path), loss=loss, encoder="tu-mobilenetv3_small_050")
        answer = cli(program=program, processes=processes)
        assert answer.code == 0, answer.err
        found.append(torch.load(path))
    (loss_of_one, one), (loss_of_two, two) = found
    assert loss_of_two == pytest.approx(loss_of_one, abs=1e-5)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.fixture(scope="module")
def trained(cli, write_config, shared_tree, tmp_path_factory):
    """Folder of a training of one step, by one process and by two."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"trained by {processes}")
        config = write_config(folder, shared_tree)
        settings = ["renderer.training.max_train_steps=1", "renderer.training.save_every=1"]
        answer = cli("train", config, *(part for value in settings for part in ("-s", value)), processes=processes)
        assert answer.code == 0, answer.err
        found[processes] = folder / "run"
    return found


def test_a_fast_step_of_two_processes_equals_one_of_one(trained):
    """Adam's first average after one step is a tenth of the gradient; the weights would hide its size."""
    states = []
    for folder in trained.values():
        state = torch.load(folder / "checkpoints" / "checkpoint-1" / "optimizer.bin")["state"]
        states.append([10 * entry["exp_avg"] for entry in state.values()])
    assert len(states[0]) == len(states[1]) > 20
    assert sum(float(value.abs().sum()) for value in states[0]) > 0.1
    for one, two in zip(*states, strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)


def test_the_main_process_alone_writes_and_the_names_are_those_of_one(trained):
    files = [(folder, (path for path in folder.rglob("*") if path.is_file())) for folder in trained.values()]
    names = [sorted(path.relative_to(folder).as_posix() for path in paths) for folder, paths in files]
    assert names[0] == names[1]
    weights = [load_file(folder / "checkpoints" / "checkpoint-1" / "model.safetensors") for folder in trained.values()]
    assert weights[0].keys() == weights[1].keys()
    logs = [(folder / "log.jsonl").read_text().count('"stage"') for folder in trained.values()]
    assert logs[0] == logs[1]


def test_a_training_goes_on_with_another_number_of_processes(trained, cli, write_config, shared_tree, tmp_path):
    config = write_config(tmp_path, shared_tree)
    settings = ["renderer.training.max_train_steps=4", "renderer.training.save_every=1"]
    arguments = ["train", config, *(part for value in settings for part in ("-s", value))]
    checkpoints = tmp_path / "run" / "checkpoints"
    assert cli.stop_when(lambda: any(checkpoints.glob("checkpoint-*")), *arguments, by=signal.SIGKILL).code < 0
    assert cli(*arguments, processes=2).code == 0
    assert (tmp_path / "run" / "model" / "training.json").is_file()


def test_pix2pixhd_stages_with_frozen_parts_of_two_processes_equal_those_of_one(cli, tmp_path):
    """In the second stage the global generator rests for two of four steps; Adam takes both alike."""
    for processes in (1, 2):
        answer = cli(
            program=STAGES.format(output=str(tmp_path / str(processes)), rate=LEARNING_RATE), processes=processes
        )
        assert answer.code == 0, answer.err
    one, two = (read_json(tmp_path / name / "stage-2" / "stage.json")["layer_weights"] for name in "12")
    assert two == pytest.approx(one, rel=1e-4)
    for part in ("generator", "discriminator"):
        one, two = (
            load_file(tmp_path / name / "stage-2" / part / "diffusion_pytorch_model.safetensors") for name in "12"
        )
        assert one.keys() == two.keys()
        # biases before a norm have gradients of 0 but for rounding, of which Adam makes whole steps
        weights = [name for name, value in one.items() if value.ndim > 1]
        moved = {name: float((two[name] - one[name]).abs().mean()) for name in weights}
        assert max(moved.values()) < LEARNING_RATE / 20, moved


@pytest.mark.slow
def test_accelerate_launch_trains_fast_and_fills_its_store(
    whole_run, copied_run, launch, write_config, tmp_path, contents
):
    """The real launcher, and its processes with imports of their own."""
    (tmp_path / "new").mkdir()
    launch("train", write_config(tmp_path / "new", whole_run.data))
    assert (tmp_path / "new" / "run" / "model" / "training.json").is_file()
    shutil.rmtree(copied_run.store)
    launch("generate", copied_run.config)
    assert contents(copied_run.store) == contents(whole_run.store)
