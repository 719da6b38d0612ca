"""How much memory a training on a pretrained base needs, estimated before anything is allocated.

The UNet is run once on torch's meta device, which computes shapes and nothing else, while autograd's own list of what
it keeps for the backward pass is summed. `python -m fastsynth.diffusion.pretrained.memory` prints the table of
docs/pretrained_base.md. Sizes in bytes; GB is 10⁹ bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastsynth.diffusion.adapting import LORA_TARGETS

RESERVE = 1.2e9
"""CUDA context, FARM, kernels' workspaces and what fragmentation wastes."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
CHECKPOINTED = ("ResnetBlock2D", "BasicTransformerBlock")
"""Blocks of a UNet whose inside gradient checkpointing computes again."""
PROMPT_LENGTH = 77
MARGIN = 32
"""Step in pixels between the crop sizes that are suggested."""


@dataclass(frozen=True)
class TrainingPlan:
    """What memory depends on. fixed_bytes: text encoder, and whatever else stays on the device."""

    crop_size: int
    batch_size: int
    unet: Literal["frozen", "lora", "full"]
    lora_rank: int = 16
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    gradient_checkpointing: bool = False
    cell: int = 8
    fixed_bytes: int = 0


class Activations(NamedTuple):
    """Bytes in fp32 that autograd keeps of one forward pass of the UNet: all of it, or with gradient checkpointing
    the inputs of all blocks, whatever lies between them, and the inside of the largest block."""

    plain: float
    checkpointed: float


def estimate_bytes(config: Mapping[str, Any], plan: TrainingPlan) -> float:
    """Peak of a training step with the UNet of this diffusers config."""
    unet = meta_unet(config)
    return peak_bytes(unet, plan, kept_activations(unet, plan))


def peak_bytes(unet: UNet2DConditionModel, plan: TrainingPlan, activations: Activations) -> float:
    """Weights, what learning adds to them, activations, and the rest."""
    weights = sum(parameter.numel() for parameter in unet.parameters())
    # what is learned is kept in fp32, with its gradient, its average and two moments; the UNet itself counts below
    moments = 2 if plan.optimizer == "adamw_8bit" else 8
    match plan.unet:
        case "full":
            learning = weights * (8 + moments)
        case "lora":
            learning = _low_rank_weights(unet, plan.lora_rank) * (12 + moments)
        case "frozen":
            learning = 0
    stored = weights * BYTES["fp32" if plan.unet == "full" else plan.precision]
    kept = activations.checkpointed if plan.gradient_checkpointing else activations.plain
    return stored + learning + kept * BYTES[plan.precision] / BYTES["fp32"] + plan.fixed_bytes + RESERVE


def kept_activations(unet: UNet2DConditionModel, plan: TrainingPlan) -> Activations:
    """Of a pass with the plan's batch; on the meta device nothing is computed."""
    unet.requires_grad_(plan.unet != "frozen")
    side, device = plan.crop_size // plan.cell, unet.device
    channels, width = int(unet.config["in_channels"]), int(unet.config["cross_attention_dim"])
    x = torch.zeros(plan.batch_size, channels, side, side, device=device, requires_grad=True)
    context = torch.zeros(plan.batch_size, PROMPT_LENGTH, width, device=device, requires_grad=True)
    steps = torch.zeros(plan.batch_size, dtype=torch.long, device=device)
    inside: list[float] = []
    inputs: list[float] = []
    starts: dict[nn.Module, float] = {}
    fused = _FusedAttention() if device.type == "meta" else nullcontext()
    with _kept(unet) as kept, fused:

        def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            starts[module] = sum(kept.values())
            inputs.append(float(arguments[0].nbytes))

        def leave(module: nn.Module, _arguments: Any, _output: Any) -> None:
            inside.append(sum(kept.values()) - starts[module])

        blocks = [module for module in unet.modules() if type(module).__name__ in CHECKPOINTED]
        handles = [block.register_forward_pre_hook(enter) for block in blocks]
        handles += [block.register_forward_hook(leave) for block in blocks]
        unet(x, steps, context)
        for handle in handles:
            handle.remove()
        total = float(sum(kept.values()))
    return Activations(total, total - sum(inside) + sum(inputs) + max(inside))


def memory_message(
    config: Mapping[str, Any], plan: TrainingPlan, *, available: float, estimate: Callable[..., float] = estimate_bytes
) -> str | None:
    """None when the plan fits into `available` bytes, else a sentence with up to three changes that make it fit."""
    needed = estimate(config, plan)
    if needed <= available:
        return None
    fitting = []
    for text, other in _alternatives(plan):
        size = estimate(config, other)
        if size <= available:
            fitting.append(f"{text} ({size / 1e9:.1f} GB)")
        if len(fitting) == 3:
            break
    remedy = f"try {' or '.join(fitting)}" if fitting else "use a larger device or a smaller base"
    return f"training needs about {needed / 1e9:.1f} GB (estimated), the device has {available / 1e9:.1f}: {remedy}"


def available_bytes(device: torch.device) -> float | None:
    """Free memory of a GPU; None for other devices, where memory can be swapped."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def _alternatives(plan: TrainingPlan) -> Iterator[tuple[str, TrainingPlan]]:
    """Single changes first, the least painful one first, then all of them together."""
    half = replace(plan, precision="bf16") if plan.precision == "fp32" else plan
    thrifty = replace(half, gradient_checkpointing=True)
    if half != plan:
        yield "base.precision bf16", half
    if not plan.gradient_checkpointing:
        yield "base.gradient_checkpointing true", replace(plan, gradient_checkpointing=True)
    if plan.unet == "full":
        yield "training.unet lora", replace(plan, unet="lora")
    if plan.batch_size > 1:
        yield f"training.batch_size {plan.batch_size // 2}", replace(plan, batch_size=plan.batch_size // 2)
    smaller = max(plan.crop_size * 3 // 4 // MARGIN * MARGIN, MARGIN)
    if smaller < plan.crop_size:
        yield f"crop_size {smaller}", replace(plan, crop_size=smaller)
    least = replace(thrifty, unet="frozen" if plan.unet == "frozen" else "lora", batch_size=1)
    lora = "" if plan.unet == "frozen" else ", lora"
    yield f"precision bf16, gradient_checkpointing{lora} and batch_size 1 together", least


def meta_unet(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """A UNet of shapes without values."""
    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(config))
    return unet.train()


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps what the fused kernels of real devices keep; on the meta device torch would take another."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return function(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Shapes of attention: query, key, value, the output and one number per query are kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise AssertionError("only shapes are wanted")


def _low_rank_weights(unet: UNet2DConditionModel, rank: int) -> int:
    """Number of weights of low-rank corrections to everything that is corrected."""
    count = 0
    for name, module in unet.named_modules():
        if name.endswith(tuple(f".{target}" for target in LORA_TARGETS)) and hasattr(module, "weight"):
            outputs, *inputs = module.weight.shape
            count += rank * (outputs + math.prod(inputs))
    return count


@contextmanager
def _kept(unet: nn.Module) -> Iterator[dict[int, int]]:
    """Storage → bytes of what autograd keeps inside the block, the weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Any] = []

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(storage)  # or its address would be given to the next one
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        yield sizes


SD_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
LDM = {"sample_size": 32, "cross_attention_dim": 1280, "attention_head_dim": 8}
BASES: dict[str, tuple[dict[str, Any], float, tuple[int, ...]]] = {
    "SD 1.x": (SD_1, 123e6, (256, 512)),
    "LDM text2img": (LDM, 582e6, (256,)),
}
"""Name → UNet config, about how many weights the text encoder has, sizes of crops in pixels. SD 2.x is like SD 1.x."""


def table() -> Iterator[str]:
    """Lines of a Markdown table, GB, batch 4."""
    yield "| base, crop | UNet | fp32 | bf16 | bf16, checkpointing |"
    yield "|---|---|---|---|---|"
    for name, (config, text, sizes) in BASES.items():
        unet = meta_unet(config)
        for crop in sizes:
            for trained in TRAINED:
                plan = TrainingPlan(crop_size=crop, batch_size=4, unet=trained)
                activations = kept_activations(unet, plan)
                cells = []
                for changes in COLUMNS:
                    of_cell = replace(plan, **changes)
                    fixed = int(text * BYTES[of_cell.precision])
                    cells.append(f"{peak_bytes(unet, replace(of_cell, fixed_bytes=fixed), activations) / 1e9:.1f}")
                yield f"| {name}, {crop} px | {trained} | {' | '.join(cells)} |"


TRAINED: tuple[Literal["frozen", "lora", "full"], ...] = ("frozen", "lora", "full")
COLUMNS: tuple[dict[str, Any], ...] = (
    {"precision": "fp32"},
    {"precision": "bf16"},
    {"precision": "bf16", "gradient_checkpointing": True},
)


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
