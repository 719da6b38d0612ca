"""Few-shot adaptation: which weights learn, and when learning from a handful of defects has to stop.

Held-out defects, inside the training third but never trained on, are judged at fixed noise: what rises is the model's
memory of the training defects, not the noise of the judgement.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fastsynth.diffusion.pipeline import FASTPipeline

TrainedUNet = Literal["frozen", "lora", "full"]
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
"""Attention and the residual blocks' convolutions: most of what a small convolutional UNet computes."""


def choose_trained(pipeline: FASTPipeline, *, unet: TrainedUNet, lora_rank: int, seed: int) -> None:
    """Mark what will be trained: FARM and the tokens always; of the UNet nothing, low-rank corrections, or all.

    seed: of the corrections' weights; the global random state is put back.

    Raises ImportError, with the command that helps, for "lora" without peft.
    """
    pipeline.farm.requires_grad_(True)
    pipeline.tokens.requires_grad_(True)
    pipeline.unet.requires_grad_(unet == "full")
    if unet == "lora":
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ImportError(
                "training.unet is lora, which needs peft; run: pip install 'fastsynth[pretrained]'"
            ) from error
        config = LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=LORA_TARGETS)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pipeline.unet.add_adapter(config)


def merge_lora(unet: UNet2DConditionModel) -> None:
    """Add low-rank corrections, if there are any, to the weights they correct: the UNet is a plain one again."""
    if getattr(unet, "peft_config", None):
        unet.fuse_lora()
        unet.unload_lora()


class HeldOutJudge:
    """Keeps the averaged weights with the least held-out loss; registered for checkpointing with accelerate.

    history: one {"step", "loss"} per judgement. best: {"step", "loss"} of the kept weights, empty before the first.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def exhausted(self, patience: int | None) -> bool:
        """Whether `patience` judgements have passed since the best one; never with None."""
        if patience is None or not self.best:
            return False
        return sum(entry["step"] > self.best["step"] for entry in self.history) >= patience

    def note(self, parts: nn.Module, loss: float, *, step: int) -> None:
        """`parts` as they are have this held-out loss; keep them, the trained ones, if it is the least so far."""
        entry = {"step": step, "loss": loss}
        self.history.append(entry)
        if not self.best or loss < self.best["loss"]:
            self.best = entry
            self.weights = {name: value.detach().clone() for name, value in _trained(parts)}

    def restore(self, parts: nn.Module) -> None:
        """Put the kept weights back."""
        with torch.no_grad():
            for name, value in _trained(parts):
                value.copy_(self.weights[name])


def trained_parameters(parts: nn.Module) -> list[nn.Parameter]:
    """What learns, in the module's order: an average of weights that stay as they are would only cost memory."""
    return [parameter for parameter in parts.parameters() if parameter.requires_grad]


def _trained(parts: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in parts.named_parameters() if value.requires_grad)
