"""The verbs of the layout renderers: general layout-to-photo training and measuring, and foreign checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from fastsynth.cli_options import AsJson, ConfigPath, Device, Overrides, Seed, print_result, read_photo_config

photo_app = typer.Typer(no_args_is_help=True, help="Renderers of whole pictures, from layouts to photos.")
import_app = typer.Typer(no_args_is_help=True, help="Take trained networks of other programs.")


@photo_app.command("train")
def photo_train(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Train CRN or pix2pixHD on folders of photos and layouts; continues from the last checkpoint."""
    settings = read_photo_config(config, overrides, seed=seed, device=device)
    from fastsynth.recipes.photos import train_photos

    typer.echo(train_photos(settings))


@photo_app.command("draw")
def photo_draw(
    config: ConfigPath,
    layouts: Annotated[Path, typer.Argument(help="Folder of layouts, coloured as in training.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    instances: Annotated[
        Path | None, typer.Option(help="Folder of instance ids, as data.instances; default: connected regions.")
    ] = None,
    looks: Annotated[int, typer.Option(min=1, help="Pictures of every layout.")] = 3,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    device: Device = None,
) -> None:
    """Draw pictures of layouts with what `photo train` has trained."""
    settings = read_photo_config(config, overrides, seed=seed, device=device)
    from fastsynth.recipes.photos import draw_photos

    written = draw_photos(settings, layouts, output, looks=looks, instances=instances)
    typer.echo(f"{output}: {len(written)} pictures")


@photo_app.command("evaluate")
def photo_evaluate(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Distance of its pictures of held-out layouts to the photos, beside a baseline, and how far style edits leak."""
    settings = read_photo_config(config, overrides, device=device)
    from fastsynth.recipes.photo_judging import evaluate_photos

    found = evaluate_photos(settings)
    lines = [f"kid, {name}: {value['mean']:.3f}" for name, value in found["kid"].items()]
    lines += [f"leak: {found['leak']:.3f}"] if "leak" in found else []
    print_result(found, "\n".join(lines), as_json)


@photo_app.command("export")
def photo_export(
    config: ConfigPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.onnx", help="File to write.", show_default=False)],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write the network that `photo train` has trained as ONNX; the file says what its input planes are."""
    settings = read_photo_config(config, overrides)
    from fastsynth.recipes.photos import export_photos

    model = export_photos(settings, output)
    typer.echo(f"{output}: sides are multiples of {model.multiple}, at least {model.smallest}")


@import_app.command("pix2pixhd")
def import_pix2pixhd(
    generator: Annotated[Path, typer.Argument(help="State dict of the generator, e.g. latest_net_G.pth.")],
    output: Annotated[
        Path | None, typer.Option(help="New folder for the model; by default the generator's path without .pth.")
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="State dict of the encoder, e.g. latest_net_E.pth.")] = None,
    edges: Annotated[bool, typer.Option(help="Whether it was trained with instance edges.")] = True,
    style_channels: Annotated[int | None, typer.Option(min=0, help="Style planes; 3 with an encoder, else 0.")] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG", help="With --encoder: the photos of this configuration give looks to draw from."
        ),
    ] = None,
) -> None:
    """Read a published pix2pixHD; only tensors are taken from the files, no code."""
    settings = None if photos is None else read_photo_config(photos, [])
    from fastsynth.recipes.photos import import_pix2pixhd

    output = output or generator.with_suffix("")
    channels = (0 if encoder is None else 3) if style_channels is None else style_channels
    model = import_pix2pixhd(generator, encoder, output, edges=edges, style_channels=channels, photos=settings)
    parameters = sum(each.numel() for each in model.generator.parameters())
    typer.echo(f"{output}: {len(model.class_names)} classes, {parameters:,} parameters")
