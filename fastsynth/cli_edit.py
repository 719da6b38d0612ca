"""The verb `edit`: change the instances of a layout file, undo, redo, render. Options act in the order given."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from fastsynth.cli_options import (
    AsJson,
    Device,
    Overrides,
    is_of_photos,
    open_run,
    print_result,
    read_photo_config,
)

if TYPE_CHECKING:
    from fastsynth.layouts.editing_history import Edit, History
    from fastsynth.recipes.editing import Edits, LayoutFile
    from fastsynth.types import Renderer

Mode = Literal["edit", "full", "paired"]
Clip = Literal["image", "object"]
FromStore = Annotated[
    tuple[Path, int] | None, typer.Option(metavar="CONFIG ID", help="Make the file first, from a stored sample.")
]
FromPhoto = Annotated[
    tuple[Path, str] | None,
    typer.Option(metavar="CONFIG NAME", help="Make the file first, from a photo and its layout, by the photo's name."),
]
Styles = Annotated[
    list[str], typer.Option(metavar="ID=STYLE", help="seed:N, centre:K, IMAGE#INSTANCE (as that one looks), or none.")
]
ORDER = "fastsynth.order"
EDITS = (
    *("add", "remove", "move", "turn", "scale", "grow", "bend", "paint", "erase", "copy", "set_class"),
    *("set_style", "set_severity", "restyle", "swap_styles", "lock", "unlock", "undo", "redo"),
)


class InOrder(TyperCommand):
    """Remembers in which order options were given; elsewhere each only knows its own values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


def edit(
    ctx: typer.Context,
    layout: Annotated[Path, typer.Argument(help="Layout file; its pictures lie beside it.", show_default=False)],
    from_image: Annotated[Path | None, typer.Option(help="Make the file first, from this picture.")] = None,
    category: Annotated[str | None, typer.Option(help="With --from-image: its category.")] = None,
    mask: Annotated[Path | None, typer.Option(help="With --from-image: where its defects are.")] = None,
    defect: Annotated[str | None, typer.Option(help="With --mask: what they are.")] = None,
    clean: Annotated[Path | None, typer.Option(help="With --mask: the picture without them.")] = None,
    layout_seed: Annotated[int, typer.Option(min=0, help="With --from-image or --from-photo: seed of the looks.")] = 0,
    from_store: FromStore = None,
    from_photo: FromPhoto = None,
    add: Annotated[list[str], typer.Option(metavar="DEFECT=MASK.png[@X,Y]", help="New instance on top.")] = [],  # noqa: B006
    remove: Annotated[list[int], typer.Option(metavar="ID", help="Take an instance away.")] = [],  # noqa: B006
    move: Annotated[list[str], typer.Option(metavar="ID=DX,DY", help="Shift by pixels.")] = [],  # noqa: B006
    turn: Annotated[list[str], typer.Option(metavar="ID=DEGREES", help="Turn counter-clockwise.")] = [],  # noqa: B006
    scale: Annotated[list[str], typer.Option(metavar="ID=FACTOR", help="Make larger or smaller.")] = [],  # noqa: B006
    grow: Annotated[list[str], typer.Option(metavar="ID=PIXELS", help="Move the border out or in.")] = [],  # noqa: B006
    bend: Annotated[list[str], typer.Option(metavar="ID=PIXELS[@SEED]", help="Bend elastically.")] = [],  # noqa: B006
    paint: Annotated[list[str], typer.Option(metavar="ID=WIDTH@X,Y;X,Y…", help="Add a brush stroke.")] = [],  # noqa: B006
    erase: Annotated[list[str], typer.Option(metavar="ID=WIDTH@X,Y;X,Y…", help="Take a stroke off.")] = [],  # noqa: B006
    copy: Annotated[list[str], typer.Option(metavar="ID=DX,DY", help="The same again elsewhere.")] = [],  # noqa: B006
    set_class: Annotated[list[str], typer.Option(metavar="ID=DEFECT", help="Another class, same shape.")] = [],  # noqa: B006
    set_style: Styles = [],  # noqa: B006
    set_severity: Annotated[list[str], typer.Option(metavar="ID=S", help="Contrast, 0.25 to 4.")] = [],  # noqa: B006
    restyle: Annotated[list[int], typer.Option(metavar="SEED", help="A new look for every instance.")] = [],  # noqa: B006
    swap_styles: Annotated[list[str], typer.Option(metavar="ID,ID", help="Exchange two styles.")] = [],  # noqa: B006
    lock: Annotated[list[int], typer.Option(metavar="ID", help="Refuse edits of an instance.")] = [],  # noqa: B006
    unlock: Annotated[list[int], typer.Option(metavar="ID", help="Allow them again.")] = [],  # noqa: B006
    undo: Annotated[list[int], typer.Option(metavar="N", help="Take the last N edits back.")] = [],  # noqa: B006
    redo: Annotated[list[int], typer.Option(metavar="N", help="Make N undone edits again.")] = [],  # noqa: B006
    clip: Annotated[Clip | None, typer.Option(help="Cut shapes off there instead of refusing.")] = None,
    render: Annotated[Path | None, typer.Option(metavar="CONFIG", help="Render by what this one trained.")] = None,
    overrides: Overrides = [],  # noqa: B006
    device: Device = None,
    mode: Annotated[Mode, typer.Option(help="Keep what did not change, draw all, or draw both.")] = "edit",
    looks: Annotated[int, typer.Option(min=1, max=1000, help="Looks of the layout in one call.")] = 1,
    output: Annotated[Path, typer.Option(help="Picture to write, others beside it.")] = Path("edited.png"),
    sheet: Annotated[Path | None, typer.Option(help="Also a sheet of before and after, .png or .jpg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the instances of a layout: add, remove, move, reclass, restyle; undo and redo without end; render.

    Edits go into the layout file in the order of the options, before --render draws; if one fails, nothing is written.
    """
    about = {"category": category, "mask": mask, "defect": defect, "clean": clean}
    edits = partial(_all_edited, edits=list(_in_order(ctx)), clip=clip)
    opened = _opened(layout, from_image, about, from_store, from_photo, edits, seed=layout_seed, overrides=overrides)
    files = []
    if render is not None:
        from fastsynth.recipes.editing_renders import render_layout

        renderer, sha256 = _load_renderer(render, opened, overrides, device)
        files = render_layout(renderer, opened, model_sha256=sha256, output=output, mode=mode, looks=looks, sheet=sheet)
    described = opened.describe()
    print_result({**described, "files": [str(path) for path in files]}, _text(described, files), as_json)


def _opened(
    layout: Path,
    from_image: Path | None,
    about_image: dict[str, Any],
    from_store: tuple[Path, int] | None,
    from_photo: tuple[Path, str] | None,
    edits: "Edits",
    *,
    seed: int,
    overrides: list[str],
) -> "LayoutFile":
    """The edited layout file, a new one if the options say from what.

    Raises ValueError when they do not go together.
    """
    from fastsynth.recipes.editing import layout_from_image, open_layout, save_layout

    sources = {"--from-image": from_image, "--from-store": from_store, "--from-photo": from_photo}
    if len(given := [name for name, value in sources.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(given)} together; a layout starts from one of them")
    if from_image is None and any(value is not None for value in about_image.values()):
        raise ValueError("--category, --mask, --defect and --clean say more about --from-image; give that too")
    if from_store is not None:
        from fastsynth.recipes.editing_renders import layout_from_store

        path, sample_id = from_store
        return layout_from_store(layout, open_run(path, overrides, None, None), sample_id, edits=edits)
    if from_photo is not None:
        from fastsynth.recipes.photo_editing import layout_from_photo

        config, name = from_photo
        return layout_from_photo(layout, read_photo_config(config, overrides), name, seed=seed, edits=edits)
    if from_image is None:
        opened = open_layout(layout)
        history = edits(opened.history)
        return opened if history is opened.history else save_layout(opened, history)
    if about_image["category"] is None:
        raise ValueError("--from-image without --category; name the category, as the renderer knows it")
    return layout_from_image(layout, from_image, seed=seed, edits=edits, **about_image)


def _load_renderer(
    config: Path, file: "LayoutFile", overrides: list[str], device: str | None
) -> tuple["Renderer", str | None]:
    """What the configuration's training has made, a run's renderer or one of whole pictures; and its model's hash."""
    if is_of_photos(config):
        from fastsynth.recipes.photo_editing import load_photo_renderer
        from fastsynth.recipes.photos import model_sha256

        settings = read_photo_config(config, overrides, device=device)
        return load_photo_renderer(settings), model_sha256(settings)
    from fastsynth.recipes.editing_renders import load_run_renderer

    run = open_run(config, overrides, None, device)
    return load_run_renderer(run, file), run.model_sha256()


def _in_order(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    """Name and text of every edit, as they stand on the command line."""
    given = {name: iter(ctx.params[name] or ()) for name in EDITS}
    for name in ctx.meta[ORDER]:
        if name in given:
            yield name, str(next(given[name]))


def _all_edited(history: "History", *, edits: list[tuple[str, str]], clip: str | None) -> "History":
    for name, text in edits:
        history = _edited(history, name, text, clip)
    return history


def _edited(history: "History", name: str, text: str, clip: str | None) -> "History":
    """`history` after one option. Raises ValueError that names the option."""
    option = f"--{name.replace('_', '-')} {text}"
    try:
        match name:
            case "undo":
                return history.undo(int(text))
            case "redo":
                return history.redo(int(text))
            case _:
                return history.then(_parsed(name, text, clip))
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{option}: {error}") from error


def _parsed(name: str, text: str, clip: str | None) -> "Edit":
    """The edit an option asks for; its values are checked as those of a layout file are."""
    from fastsynth.layouts.editing_history import parse_edit

    values: dict[str, Any]
    head, _, rest = text.partition("=")
    cut = {"clip": clip} if clip is not None else {}
    match name:
        case "add":
            values = {"op": "add", **_shape(rest), "defect": head, **cut}
        case "move" | "copy":
            dx, dy = _numbers(rest, count=2)
            values = {"op": name, "id": _number(head), "dx": dx, "dy": dy, **cut}
        case "turn" | "scale":
            key = "degrees" if name == "turn" else "scale"
            values = {"op": "turn", "id": _number(head), key: _factor(rest), **cut}
        case "grow":
            values = {"op": "grow", "id": _number(head), "pixels": _number(rest), **cut}
        case "bend":
            pixels, at, seed = rest.partition("@")
            values = {"op": "bend", "id": _number(head), "pixels": _number(pixels), **cut}
            values |= {"seed": _number(seed)} if at else {}
        case "paint" | "erase":
            width, _, points = rest.partition("@")
            stroke = [_numbers(point, count=2) for point in points.split(";")]
            values = {"op": "paint", "id": _number(head), "width": _number(width), "points": stroke}
            values |= {"erase": name == "erase"}
        case "set_class":
            values = {"op": "set_class", "id": _number(head), "defect": rest}
        case "set_style":
            values = {"op": "set_style", "id": _number(head), "style": _style(rest)}
        case "set_severity":
            values = {"op": "set_severity", "id": _number(head), "severity": _factor(rest)}
        case "restyle":
            values = {"op": "restyle", "seed": _number(text)}
        case "swap_styles":
            first, second = _numbers(text, count=2)
            values = {"op": "swap_styles", "first": first, "second": second}
        case "lock" | "unlock":
            values = {"op": "lock", "id": _number(text), "locked": name == "lock"}
        case _:
            values = {"op": name, "id": _number(text)}
    return parse_edit(values)


def _shape(text: str) -> dict[str, Any]:
    """MASK.png of the image's size, or MASK.png@X,Y: the mask's shape with its upper left corner there."""
    from fastsynth.images import read_mask
    from fastsynth.layouts.editing_history import RunLengths
    from fastsynth.layouts.parts import tight_box

    name, at, place = text.rpartition("@")
    mask = read_mask(Path(name if at else text))
    if not mask.any():
        raise ValueError("the mask is empty; mark the defect")
    x0, y0, x1, y1 = tight_box(mask)
    left, top = _numbers(place, count=2) if at else [x0, y0]
    return {"mask": RunLengths.of(mask[y0:y1, x0:x1]), "left": left, "top": top}


def _style(text: str) -> dict[str, Any] | None:
    if text == "none":
        return None
    kind, _, value = text.partition(":")
    if kind in ("seed", "centre"):
        return {kind: _number(value)}
    image, _, instance = text.rpartition("#")
    if not image:
        raise ValueError(f"style {text!r}; wanted seed:N, centre:K, IMAGE#INSTANCE or none")
    return {"image": image, "instance": _number(instance)}


def _numbers(text: str, *, count: int) -> list[int]:
    parts = text.split(",")
    if len(parts) != count:
        raise ValueError(f"{text!r}; wanted {count} numbers with a comma between them")
    return [_number(part) for part in parts]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a whole number") from None


def _factor(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None


def _text(described: dict[str, Any], files: list[Path]) -> str:
    lines = [
        f"{item['id']}: {item['defect']} at {item['bbox']}, {item['area']} px"
        + (f", style {item['style']}" if item["style"] else "")
        + (", locked" if item["locked"] else "")
        for item in described["instances"]
    ]
    past = ", ".join(described["edits"]) or "none"
    future = f"; undone: {', '.join(described['undone'])}" if described["undone"] else ""
    return "\n".join([*lines, f"{len(lines)} instances; edits: {past}{future}", *map(str, files)])
