"""Working in several processes as if in one: waiting for one another; in training the same global batch, the same
loss, the same batch statistics.

B global batch, n processes. Every process draws or reads its slice of B / n samples, in the order of the processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, distributed, nn

from fastsynth.processes import process_count, process_index

PATIENCE = timedelta(days=7)
"""How long the processes wait for one another; the defaults of the backends are minutes."""


def wait_for_all(*, cpu: bool) -> None:
    """Go on when every process has come here. cpu: they are not to look for a GPU."""
    if process_count() > 1:
        PartialState(cpu=cpu, timeout=PATIENCE).wait_for_everyone()


@contextmanager
def main_first(*, cpu: bool) -> Iterator[None]:
    """The main process runs the block alone, then the others run it and find its files."""
    if process_index() > 0:
        wait_for_all(cpu=cpu)
    yield
    if process_index() == 0:
        wait_for_all(cpu=cpu)


def own_slice(accelerator: Accelerator, batch_size: int) -> slice:
    """Which samples of the global batch are this process's. Raises ValueError when they cannot be shared out evenly."""
    count = accelerator.num_processes
    if batch_size % count:
        raise ValueError(f"batch_size {batch_size} cannot be shared out evenly to {count} processes; use a multiple")
    size = batch_size // count
    return slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)


def gather_batch(accelerator: Accelerator, own: Tensor) -> Tensor:
    """(B, …) from everybody's (B / n, …); gradients flow into the own slice.

    A loss of the whole batch, whatever its normalisation, is then computed by every process. Wrappers for several
    processes average gradients: pass `n · loss` to `backward`, and their average is the gradient of the loss.
    """
    if accelerator.num_processes == 1:
        return own
    slices = list(accelerator.gather(own.detach()).chunk(accelerator.num_processes))
    slices[accelerator.process_index] = own
    return torch.cat(slices)


def mean_over_processes(values: Tensor) -> Tensor:
    """What the processes found in their equally large slices, as one of the whole batch would have. No gradients."""
    if process_count() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / process_count()


def share_batch_statistics(model: nn.Module) -> None:
    """Turn every `nn.BatchNorm2d` in place into one whose statistics are those of all processes' samples.

    torch's own SyncBatchNorm does the same on GPUs only. Names and shapes of the weights stay.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _shared_class(type(module))


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient, as every process's loss depends on everybody's summands."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _shared_class(kind: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    """Subclass of a batch norm, also of timm's with an activation behind it, that shares its statistics."""

    class Shared(kind):  # type: ignore[misc, valid-type]
        def forward(self, values: Tensor) -> Tensor:
            if not self.training:
                return super().forward(values)  # type: ignore[no-any-return]
            normalised = _normalise(self, values)
            for name in ("drop", "act"):
                if hasattr(self, name):
                    normalised = getattr(self, name)(normalised)
            return normalised

    return Shared


def _normalise(layer: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """(B / n, C, H, W) → the same: zero mean and unit variance per channel over all processes, then the affine map."""
    count = values.numel() // values.shape[1] * distributed.get_world_size()
    axes, shape = (0, 2, 3), (1, -1, 1, 1)
    mean = _Sum.apply(values.sum(axes)) / count
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    if layer.running_mean is not None and layer.running_var is not None:
        assert layer.momentum is not None
        with torch.no_grad():
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance * count / max(count - 1, 1), layer.momentum)
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked += 1
    scaled: Tensor = centred * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        scaled = scaled * layer.weight.view(shape) + layer.bias.view(shape)
    return scaled
