"""Laws of checkpoints: two are kept, each whole; a damaged one is skipped and named."""

import pytest
import torch
from accelerate import Accelerator

from fastsynth.checkpoints import load_checkpoint, save_checkpoint


class Loop:
    """A weight that counts the steps, and an optimiser with a state."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=True)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def run(self, output, *, first: int, last: int) -> None:
        for step in range(first, last + 1):
            with torch.no_grad():
                self.model.weight.fill_(step)
            save_checkpoint(self.accelerator, output, step=step)

    def loaded(self, output) -> float:
        load_checkpoint(self.accelerator, output)
        return float(self.model.weight.detach()[0, 0])


def names(output) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def test_the_last_two_are_kept_and_the_last_one_is_taken(tmp_path):
    Loop().run(tmp_path, first=8, last=11)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11"]
    assert Loop().loaded(tmp_path) == 11


@pytest.mark.parametrize("damage", ["cut off", "one bit", "missing file", "no checksums but a bad list"])
def test_a_damaged_one_is_skipped_and_named(damage, tmp_path):
    Loop().run(tmp_path, first=1, last=2)
    newest = tmp_path / "checkpoints" / "checkpoint-2"
    weights = newest / "model.safetensors"
    data = weights.read_bytes()
    match damage:
        case "cut off":
            weights.write_bytes(data[:-5])
        case "one bit":
            weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "missing file":
            (newest / "optimizer.bin").unlink()
        case _:
            (newest / "checksums.json").write_text("{")
    with pytest.warns(UserWarning, match=r"checkpoint-2/.* is damaged; going on from the checkpoint before"):
        assert Loop().loaded(tmp_path) == 1
    Loop().run(tmp_path, first=2, last=2)  # the damaged one is replaced
    assert Loop().loaded(tmp_path) == 2


def test_when_all_are_damaged_the_training_starts_over(tmp_path):
    Loop().run(tmp_path, first=1, last=2)
    for path in tmp_path.rglob("model.safetensors"):
        path.write_bytes(b"")
    loop = Loop()
    before = float(loop.model.weight.detach()[0, 0])
    with pytest.warns(UserWarning, match="damaged"):
        assert loop.loaded(tmp_path) == before


def test_a_checkpoint_of_another_training_is_refused_and_named(tmp_path):
    save_checkpoint(Loop().accelerator, tmp_path, step=3, made_from="a")
    load_checkpoint(Loop().accelerator, tmp_path, made_from="a")
    with pytest.raises(ValueError, match=r"checkpoint-3 is of a training with other settings or images; .* delete"):
        load_checkpoint(Loop().accelerator, tmp_path, made_from="b")
    (tmp_path / "checkpoints" / "checkpoint-3" / "made_from.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"made_from.json is damaged"):
        load_checkpoint(Loop().accelerator, tmp_path, made_from="b")


def test_a_checkpoint_of_several_processes_has_the_names_of_one(tmp_path):
    """What wraps a model for several processes puts `module.` before every name."""
    from safetensors.torch import load_file

    Loop().run(tmp_path, first=1, last=1)
    saved = load_file(tmp_path / "checkpoints" / "checkpoint-1" / "model.safetensors")
    assert sorted(saved) == ["bias", "weight"]
