"""What a layout renderer sees: one plane per class, instance edges, styles, and all of it at coarser sizes.

Label maps stay integers until a batch is encoded (one-hot planes of a whole data set would fill the memory), and
every id is checked here: an id out of range is an error that names it, not a crash inside the network.

Legend: B batch, N classes, D style channels, H W image size. Sources: CRN (Chen & Koltun 2017, arXiv 1707.09405),
pix2pixHD (Wang et al. 2018, arXiv 1711.11585).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.surface import smooth_fill

CONTEXT_CHANNELS = 4
"""Planes of `surroundings`."""
HOLE_CLASSES = ("background", "object")
"""The first classes of a renderer that draws into holes; the defects follow."""
FIRST_DEFECT = len(HOLE_CLASSES)


def one_hot(labels: Tensor, *, num_classes: int, ignore: int | None = None) -> Tensor:
    """One plane per class, (B, num_classes, H, W) float32; each pixel is 1 in the plane of its class, 0 elsewhere.

    Args:
        labels: (B, H, W) of any integer type, ids 0 … num_classes - 1.
        ignore: id of pixels without a class, usually 255: 0 in every plane.

    Raises ValueError for labels that are no integers or an id that has no plane.
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; pass integer class ids as (B, H, W)")
    labels = labels.long()
    ignored = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else labels == ignore
    wrong = ~ignored & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        found = ", ".join(map(str, labels[wrong].unique().tolist()[:5]))
        raise ValueError(
            f"class ids {found} in a layout, the renderer knows 0 to {num_classes - 1}; "
            "remap them, raise num_classes, or name the id to ignore"
        )
    # F.one_hot would make int64 planes first: 0.6 GB of them for 2048×1024 pixels and 35 classes
    batch, height, width = labels.shape
    planes = torch.zeros((batch, num_classes + 1, height, width), device=labels.device)
    planes.scatter_(1, labels.masked_fill(ignored, num_classes)[:, None], 1.0)
    return planes[:, :num_classes].contiguous()


def instance_edges(instances: Tensor) -> Tensor:
    """1 where a pixel's id differs from one of its 4 neighbours, so both sides of a border: (B, 1, H, W) float32.

    instances: (B, H, W) ids of any integer type; where there are no instances they hold the class id.
    """
    edges = torch.zeros_like(instances, dtype=torch.bool)
    across = instances[..., 1:] != instances[..., :-1]
    down = instances[..., 1:, :] != instances[..., :-1, :]
    edges[..., 1:] |= across
    edges[..., :-1] |= across
    edges[..., 1:, :] |= down
    edges[..., :-1, :] |= down
    return edges[:, None].float()


def encode_layout(
    labels: Tensor,
    instances: Tensor | None = None,
    styles: Tensor | None = None,
    *,
    num_classes: int,
    context: Tensor | None = None,
    ignore: int | None = None,
) -> Tensor:
    """The input of a renderer: planes of the classes, the edges, the context and the styles, in this order.

    labels: (B, H, W) integers. instances: (B, H, W) integers, or None for a renderer without edges.
    styles: (B, D, H, W), or None. context: (B, 4, H, W) of `surroundings`, or None for whole pictures.
    ignore: see `one_hot`. Returns (B, N [+ 1] [+ 4] [+ D], H, W). Raises ValueError as `one_hot` does.
    """
    parts = [one_hot(labels, num_classes=num_classes, ignore=ignore)]
    if instances is not None:
        parts.append(instance_edges(instances))
    if context is not None:
        parts.append(context)
    if styles is not None:
        parts.append(styles)
    return torch.cat(parts, dim=1)


def surroundings(image: Tensor, hole: Tensor) -> Tensor:
    """What a renderer sees of the picture it draws into: the picture, smooth in the hole, and the hole, (B, 4, H, W).

    image: (B, 3, H, W) in [-1, 1]. hole: (B, 1, H, W), 1 where something will be drawn.
    """
    return torch.cat([smooth_fill(image, hole), hole], dim=1)


def area_pyramid(layout: Tensor, *, levels: int) -> list[Tensor]:
    """The layout at 1, 1/2, 1/4, …, finest first: each pixel the mean of 4, so class shares still sum to 1.

    layout: (B, C, H, W), sides multiples of 2^(levels - 1). Raises ValueError for other sides.
    """
    check_sides(layout, multiple=2 ** (levels - 1))
    pyramid = [layout]
    while len(pyramid) < levels:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def input_pyramid(x: Tensor, *, levels: int) -> list[Tensor]:
    """The input of pix2pixHD at 1, 1/2, 1/4, …, finest first: 3×3 means with stride 2, cut off at the border."""
    pyramid = [x]
    while len(pyramid) < levels:
        pyramid.append(F.avg_pool2d(pyramid[-1], 3, stride=2, padding=1, count_include_pad=False))
    return pyramid


def check_sides(x: Tensor, *, multiple: int, smallest: int = 1) -> None:
    """Raises ValueError unless both sides are multiples of `multiple` and at least `smallest` times that."""
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(f"input is {height}×{width}; pad both sides to multiples of {multiple}")
    if min(height, width) < smallest * multiple:
        raise ValueError(
            f"input is {height}×{width}, its coarsest map would be {height // multiple}×{width // multiple}; "
            f"this network needs sides of at least {smallest * multiple}, or fewer levels"
        )
