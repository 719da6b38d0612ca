"""CRN from its smallest size to its largest: every stage adds a module to the networks before (arXiv 1707.09405)."""

from typing import Literal, cast

import torch

from generators.crn import CRN
from generators.crn_training import CRNTask
from generators.layout_model import LayoutModel
from generators.layout_warp import Warp
from generators.losses import ClassNorm, LayerWeights
from generators.perceptual import TrunkKind, build_trunk
from generators.stages import Stages


def train_crn(
    stages: Stages,
    *,
    widths: tuple[int, ...],
    num_outputs: int,
    norm: Literal["joint", "class_adaptive"],
    edges: bool,
    trunk: TrunkKind,
    calibration_steps: int,
    warp: Warp,
    learning_rate: float,
    diversity_mean_weight: tuple[float, float],
    class_norm: ClassNorm,
) -> LayoutModel:
    """Train all stages, or go on with them. widths: of all modules of the last stage; the rest: `CRNTrainingConfig`.

    Raises ValueError when there are not more modules than stages.
    """
    count = len(stages.steps)
    if count >= len(widths):
        raise ValueError(f"{count} stages grow {len(widths)} modules; give fewer stage_steps or more widths")
    network: CRN | None = None
    layer_weights: list[float] = []
    win_shares: list[list[float]] = []
    for stage in range(count):
        if stages.finished(stage):
            network, numbers = CRN.from_pretrained(stages.folder(stage) / "generator"), stages.recall(stage)
            layer_weights, win_shares = numbers["layer_weights"], numbers["win_shares"]
            continue
        modules = widths[: len(widths) - count + 1 + stage]
        with torch.random.fork_rng():
            torch.manual_seed(stages.seed(stage))
            if network is None:
                network = CRN(
                    len(stages.source.class_names),
                    widths=modules,
                    num_outputs=num_outputs,
                    edges=edges,
                    norm=norm,
                    context_channels=stages.context_channels,
                )
            else:
                network = network.grow(modules[-1])
        eyes = build_trunk(trunk, recipe="crn")
        task = CRNTask(
            network.requires_grad_(True).train(),
            eyes,
            LayerWeights(eyes.num_layers),
            calibration_steps=calibration_steps,
            steps=stages.steps[stage],
            learning_rate=learning_rate,
            diversity_mean_weight=diversity_mean_weight,
            class_norm=class_norm,
            ignore=stages.ignore,
            warp=warp,
        )
        stages.run(stage, task, name="CRN")
        network, layer_weights = cast(CRN, task.players[0]), task.weights.weights.tolist()
        win_shares = task.wins.lasting_shares()
        stages.finish(stage, task, {"generator": network}, win_shares=win_shares)
    assert network is not None
    return LayoutModel(
        network.eval().requires_grad_(False),
        tuple(stages.source.class_names),
        ignore=stages.ignore,
        layer_weights=tuple(layer_weights),
        win_shares=tuple(map(tuple, win_shares)),
    )
