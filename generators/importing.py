"""Published pix2pixHD checkpoints into our folders: `latest_net_G.pth` and `latest_net_E.pth`.

The files are plain state dicts of `Sequential` networks, so a tensor's name is a position: model.1 is the first 7×7
convolution, three positions per layer after it (convolution, norm, ReLU), one per residual block. Norms have no
tensors. Sizes are read from the names and shapes; then every tensor is checked before any is used.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import Tensor, nn

from generators.pix2pixhd import Pix2PixHDGenerator
from generators.style import StyleEncoder

FIRST = "model.1"
Model = TypeVar("Model", bound=nn.Module)
StateDict = Mapping[str, Tensor]


def import_generator(path: Path, *, edges: bool = True, style_channels: int = 0) -> Pix2PixHDGenerator:
    """The generator of a published file, global alone or with any number of local enhancers, in evaluation mode.

    path: a file saved with torch.save; only tensors are read from it, no code.
    edges, style_channels: what its input holds after the class planes; the file does not say.

    Raises FileNotFoundError when there is no such file; ValueError when it holds no such state dict, naming the first
    tensor that does not fit, or when its input leaves no planes for classes.
    """
    state = read_state_dict(path)
    start, blocks = _run_of_blocks(state, "model", path=path)
    _need(state, f"{FIRST}.weight", path=path)
    enhancers = len({match[1] for name in state if (match := re.match(r"model(\d+)_1\.", name))})
    enhancer_blocks = _run_of_blocks(state, "model1_2", path=path)[1] if enhancers else 3
    width, in_channels = state[f"{FIRST}.weight"].shape[:2]
    num_classes = in_channels - edges - style_channels
    # networks from pictures to pictures say so nowhere, but 3 channels without styles are hardly a layout
    if num_classes < 1 or (in_channels, style_channels) == (3, 0):
        raise ValueError(
            f"{path}: its input has {in_channels} channels, of which {int(edges)} for edges and {style_channels} for "
            f"styles leave {max(num_classes, 0)}: no layout with classes; check --edges and --style-channels (networks "
            "trained with label_nc 0, from pictures, cannot be imported)"
        )
    downsamples = (start - 4) // 3
    head = f"model{enhancers}_2.{enhancer_blocks + 4}" if enhancers else f"model.{start + blocks + 3 * downsamples + 1}"
    _need(state, f"{head}.weight", path=path)
    with torch.device("meta"):
        model = Pix2PixHDGenerator(
            num_classes,
            edges=edges,
            style_channels=style_channels,
            out_channels=len(state[f"{head}.weight"]),
            width=width,
            num_downsamples=downsamples,
            num_blocks=blocks,
            num_enhancers=enhancers,
            num_enhancer_blocks=enhancer_blocks,
            norm="instance",
            upsampling="transposed",
        )
    names = generator_names(downsamples, blocks, enhancers=enhancers, enhancer_blocks=enhancer_blocks)
    return _load(model, state, names, path=path)


def import_encoder(path: Path) -> StyleEncoder:
    """The style encoder of a published file, in evaluation mode. Raises as `import_generator` does."""
    state = read_state_dict(path)
    _need(state, f"{FIRST}.weight", path=path)
    last = max(int(match[1]) for name in state if (match := re.match(r"model\.(\d+)\.weight$", name)))
    _need(state, f"model.{last}.bias", path=path)
    downsamples = (last - 5) // 6
    width, in_channels = state[f"{FIRST}.weight"].shape[:2]
    with torch.device("meta"):
        model = StyleEncoder(
            len(state[f"model.{last}.bias"]),
            in_channels=in_channels,
            width=width,
            num_downsamples=downsamples,
            upsampling="transposed",
        )
    names = {FIRST: "first.conv"}
    names |= {f"model.{4 + 3 * i}": f"down.{i}.conv" for i in range(downsamples)}
    names |= {f"model.{4 + 3 * (downsamples + i)}": f"up.{i}.conv" for i in range(downsamples)}
    names |= {f"model.{5 + 6 * downsamples}": "head.conv"}
    return _load(model, state, names, path=path)


def generator_names(downsamples: int, blocks: int, *, enhancers: int, enhancer_blocks: int) -> dict[str, str]:
    """Published name → our name, of every convolution, in the order of the published file."""
    ours = "global_generator"
    start = 4 + 3 * downsamples
    names = {FIRST: f"{ours}.first.conv"}
    names |= {f"model.{4 + 3 * i}": f"{ours}.down.{i}.conv" for i in range(downsamples)}
    names |= _block_names("model", f"{ours}.blocks", first=start, count=blocks)
    names |= {f"model.{start + blocks + 3 * i}": f"{ours}.up.{i}.conv" for i in range(downsamples)}
    head = f"model.{start + blocks + 3 * downsamples + 1}"
    for n in range(1, enhancers + 1):
        ours = f"enhancers.{n - 1}"
        names |= {f"model{n}_1.1": f"{ours}.first.conv", f"model{n}_1.4": f"{ours}.down.conv"}
        names |= _block_names(f"model{n}_2", f"{ours}.blocks", first=0, count=enhancer_blocks)
        names |= {f"model{n}_2.{enhancer_blocks}": f"{ours}.up.conv"}
        head = f"model{n}_2.{enhancer_blocks + 4}"
    return names | {head: "head.conv"}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises FileNotFoundError, or ValueError when it is no plain state dict."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass the .pth file of a published network")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        # torch's own words advise to load it all the same, which would run whatever code the file holds
        raise ValueError(f"{path}: not a file of plain tensors ({type(error).__name__}); pass a state dict") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds a {type(state).__name__} with more than tensors in it; pass a state dict")
    return state


def _block_names(theirs: str, ours: str, *, first: int, count: int) -> dict[str, str]:
    return {
        f"{theirs}.{first + i}.conv_block.{position}": f"{ours}.{i}.{name}"
        for i in range(count)
        for position, name in ((1, "conv1"), (5, "conv2"))
    }


def _run_of_blocks(state: StateDict, prefix: str, *, path: Path) -> tuple[int, int]:
    """Position of the first residual block below `prefix`, and how many there are."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.conv_block\.")
    positions = {int(match[1]) for name in state if (match := pattern.match(name))}
    if not positions:
        found = next(iter(state), "none")
        raise ValueError(
            f"{path}: no residual block ({prefix}.<i>.conv_block.1.weight) among its tensors, the first is {found}; "
            "pass a pix2pixHD generator"
        )
    return min(positions), len(positions)


def _need(state: StateDict, name: str, *, path: Path) -> None:
    if name not in state:
        raise ValueError(f"{path}: tensor {name} is missing, the first one there is {next(iter(state), 'none')}")


def _load(model: Model, state: StateDict, names: Mapping[str, str], *, path: Path) -> Model:
    """Fill a model without storage. Raises ValueError that names the first tensor that does not fit."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    filled = {}
    for theirs, ours in names.items():
        for part in ("weight", "bias"):
            name, wanted = f"{theirs}.{part}", shapes[f"{ours}.{part}"]
            _need(state, name, path=path)
            if tuple(state[name].shape) != wanted:
                raise ValueError(f"{path}: tensor {name} is {tuple(state[name].shape)}, this network has {wanted}")
            filled[f"{ours}.{part}"] = state[name].float()
    extra = [name for name in state if name.rpartition(".")[0] not in names]
    if extra:
        raise ValueError(f"{path}: tensor {extra[0]} has no place in a pix2pixHD network of this size")
    model.load_state_dict(filled, assign=True)
    return model.eval()
