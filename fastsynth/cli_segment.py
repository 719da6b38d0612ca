"""Verbs on segmenters: train one, score one, predict with one."""

from pathlib import Path
from typing import Annotated

import typer

from fastsynth.cli_options import AsJson, ConfigPath, Device, Overrides, open_run, print_result

segment_app = typer.Typer(no_args_is_help=True, help="Train segmenters and use them.")


@segment_app.command("train")
def segment_train(
    config: ConfigPath,
    arm: Annotated[str, typer.Option(help="real, real+synthetic-<ratio> or synthetic.")] = "real",
    overrides: Overrides = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Seed of the segmenter.")] = 0,
    device: Device = None,
) -> None:
    """Train and score one segmenter of one arm; `compare` trains whatever is missing."""
    opened = open_run(config, overrides, None, device)
    from fastsynth.recipes.judging import planned_arms, train_arm

    plans = {plan.folder: plan for plan in planned_arms(opened)}
    if arm not in plans:
        raise ValueError(f"no arm {arm!r} in this configuration; there are: {', '.join(plans)}")
    trained = train_arm(opened, plans[arm], seed=seed)
    typer.echo(f"{arm}, seed {seed}: mIoU {trained.scores.miou(trained.threshold):.3f} on the test part")


@segment_app.command("eval")
def segment_eval(
    config: ConfigPath,
    model: Annotated[Path, typer.Option(help="Folder of a trained segmenter.")],
    overrides: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Score a segmenter on the test part of a run, per defect type."""
    opened = open_run(config, overrides, None, None)
    from fastsynth.recipes.judging import evaluate_segmenter

    found = evaluate_segmenter(opened, model)
    lines = [f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()) for name, row in found.items()]
    print_result(found, "\n".join(lines), as_json)


@segment_app.command("predict")
def segment_predict(
    model: Annotated[Path, typer.Option(help="Folder of a trained segmenter.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Folder for the masks.")] = Path("predictions"),
) -> None:
    """Write a mask of 0 and 255 for every image, at its own size."""
    from fastsynth.recipes.judging import predict_masks

    count = predict_masks(model, images, output)
    typer.echo(f"{output}: {count} masks")
