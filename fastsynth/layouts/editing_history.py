"""Edits as data, and the history of a layout: what it was, every edit since, and what was undone.

A history never changes: an edit, an undo and a redo each return a new one, and the layout is what the edits make of
the first one. Edits hold all they need (masks as run lengths, seeds as numbers), so replaying them is exact.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, assert_never

import numpy as np
from pydantic import FailFast, Field, field_validator

from fastsynth.config import Config, parse_config
from fastsynth.layouts import editing
from fastsynth.layouts.editing import MAX_GROWTH, MAX_SCALE, Clip
from fastsynth.layouts.layout import remove_instance
from fastsynth.types import CentreStyle, Layout, ReferenceStyle, SeedStyle, Style

MAX_ID = 65_535
"""Instance maps are uint16."""
MAX_SIDE = 100_000
"""Pixels; positions and sizes beyond it are no picture's."""

Id = Annotated[int, Field(strict=True, ge=1, le=MAX_ID)]
Pixels = Annotated[int, Field(strict=True, ge=-MAX_SIDE, le=MAX_SIDE)]
Side = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Severity = Annotated[Number, Field(ge=0.25, le=4)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=200, pattern=r"^[^/\\\x00-\x1f]+$")]
"""Defects and categories become folder names."""
Text = Annotated[str, Field(strict=True, max_length=1000)]


class RunLengths(Config):
    """A mask as COCO's uncompressed run lengths: columns one after the other, the first run is background; exact."""

    size: tuple[Side, Side]
    """Height and width."""
    counts: Annotated[list[Annotated[int, Field(strict=True, ge=0)]], FailFast()]

    @classmethod
    def of(cls, mask: np.ndarray) -> "RunLengths":
        """mask: (h, w) bool."""
        flat = np.concatenate(([False], mask.T.ravel()))
        starts = np.flatnonzero(flat[1:] != flat[:-1]).tolist()
        counts = [stop - start for start, stop in zip([0, *starts], [*starts, mask.size], strict=True)]
        return cls(size=(mask.shape[0], mask.shape[1]), counts=counts)

    @field_validator("counts")
    @classmethod
    def _short(cls, counts: list[int]) -> list[int]:
        if any(count == 0 for count in counts[1:]):
            raise ValueError("a run of no pixels; only the first one may be empty")
        return counts

    def decode(self, *, largest: tuple[int, int]) -> np.ndarray:
        """(h, w) bool. largest: the image's height and width. Raises ValueError when the mask is larger, or wrong."""
        (height, width), filled = self.size, sum(self.counts)
        if height > largest[0] or width > largest[1]:
            raise ValueError(f"a mask of {width}×{height} pixels on an image of {largest[1]}×{largest[0]}; make it fit")
        if filled != height * width:
            raise ValueError(f"run lengths hold {filled} pixels, the mask {width}×{height}; write the file again")
        values = np.arange(len(self.counts)) % 2 == 1
        return np.ascontiguousarray(np.repeat(values, self.counts).reshape(width, height).T)


def relative_path(text: str) -> str:
    """`text`. Raises ValueError unless it is a path below a root, with forward slashes."""
    parts = text.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in text or ":" in parts[0] or "\0" in text:
        raise ValueError(f"{text!r} is not a path below the data root; wanted a relative one with forward slashes")
    return text


class StyleData(Config):
    """A style: exactly one of seed, centre, and image with instance."""

    seed: Seed | None = None
    centre: Annotated[int, Field(strict=True, ge=0, le=MAX_ID)] | None = None
    image: Text | None = None
    instance: Id | None = None

    @classmethod
    def of(cls, style: Style) -> "StyleData":
        match style:
            case SeedStyle(seed):
                return cls(seed=seed)
            case CentreStyle(centre):
                return cls(centre=centre)
            case ReferenceStyle(image, instance):
                return cls(image=image, instance=instance)
            case _:
                assert_never(style)

    def style(self) -> Style:
        """Raises ValueError unless exactly one kind is given, or when the image's path leaves the data root."""
        match self.seed, self.centre, self.image, self.instance:
            case int(seed), None, None, None:
                return SeedStyle(seed)
            case None, int(centre), None, None:
                return CentreStyle(centre)
            case None, None, str(image), int(instance):
                return ReferenceStyle(relative_path(image), instance)
            case _:
                raise ValueError(f"style {self.given()}; wanted one of seed, centre, or image and instance")

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Add(Config):
    op: Literal["add"] = "add"
    defect: Name
    mask: RunLengths
    left: Pixels
    top: Pixels
    style: StyleData | None = None
    shape_source: Text = "edit"
    clip: Clip | None = None


class Remove(Config):
    op: Literal["remove"] = "remove"
    id: Id


class Shift(Config):
    """By pixels, to the right and down."""

    id: Id
    dx: Pixels
    dy: Pixels
    clip: Clip | None = None


class Move(Shift):
    op: Literal["move"] = "move"


class Turn(Config):
    op: Literal["turn"] = "turn"
    id: Id
    degrees: Number = 0.0
    scale: Annotated[Number, Field(gt=0, le=MAX_SCALE)] = 1.0
    clip: Clip | None = None


class Grow(Config):
    op: Literal["grow"] = "grow"
    id: Id
    pixels: Annotated[int, Field(strict=True, ge=-MAX_GROWTH, le=MAX_GROWTH)]
    clip: Clip | None = None


class Bend(Config):
    op: Literal["bend"] = "bend"
    id: Id
    pixels: Annotated[int, Field(strict=True, ge=0, le=MAX_GROWTH)]
    seed: Seed = 0
    clip: Clip | None = None


class Paint(Config):
    op: Literal["paint"] = "paint"
    id: Id
    points: Annotated[list[tuple[Pixels, Pixels]], Field(min_length=1, max_length=100_000), FailFast()]
    width: Annotated[int, Field(strict=True, ge=1, le=1000)]
    erase: Annotated[bool, Field(strict=True)] = False


class Copy(Shift):
    op: Literal["copy"] = "copy"


class SetClass(Config):
    op: Literal["set_class"] = "set_class"
    id: Id
    defect: Name


class SetStyle(Config):
    op: Literal["set_style"] = "set_style"
    id: Id
    style: StyleData | None


class SetSeverity(Config):
    op: Literal["set_severity"] = "set_severity"
    id: Id
    severity: Severity


class Restyle(Config):
    op: Literal["restyle"] = "restyle"
    seed: Seed


class SwapStyles(Config):
    op: Literal["swap_styles"] = "swap_styles"
    first: Id
    second: Id


class Lock(Config):
    op: Literal["lock"] = "lock"
    id: Id
    locked: Annotated[bool, Field(strict=True)] = True


Edit = Annotated[
    Add
    | Remove
    | Move
    | Turn
    | Grow
    | Bend
    | Paint
    | Copy
    | SetClass
    | SetStyle
    | SetSeverity
    | Restyle
    | SwapStyles
    | Lock,
    Field(discriminator="op"),
]


class _One(Config):
    edit: Edit
    """As `parse_edit` takes it."""


def parse_edit(values: dict[str, Any]) -> Edit:
    """An edit from plain values, as in a layout file. Raises ValueError with one line per problem."""
    try:
        return parse_config(_One, {"edit": values}, source="").edit
    except ValueError as error:
        lines = str(error).splitlines()
        raise ValueError("\n".join(line.removeprefix(": ").removeprefix("edit.") for line in lines)) from None


def apply_edit(layout: Layout, edit: Edit) -> Layout:
    """The layout after one edit. Raises ValueError when the edit does not fit it."""
    match edit:
        case Add(defect=defect, mask=mask, left=left, top=top, style=style, shape_source=source, clip=clip):
            shape, look = mask.decode(largest=layout.size), None if style is None else style.style()
            return editing.add_shape(
                layout, defect=defect, mask=shape, left=left, top=top, style=look, shape_source=source, clip=clip
            )
        case Remove(id=id):
            return remove_instance(layout, id)
        case Move(id=id, dx=dx, dy=dy, clip=clip):
            return editing.move_instance(layout, id, dx=dx, dy=dy, clip=clip)
        case Turn(id=id, degrees=degrees, scale=scale, clip=clip):
            return editing.turn_instance(layout, id, degrees=degrees, scale=scale, clip=clip)
        case Grow(id=id, pixels=pixels, clip=clip):
            return editing.grow_instance(layout, id, pixels=pixels, clip=clip)
        case Bend(id=id, pixels=pixels, seed=seed, clip=clip):
            return editing.bend_instance(layout, id, pixels=pixels, seed=seed, clip=clip)
        case Paint(id=id, points=points, width=width, erase=erase):
            return editing.paint_instance(layout, id, points, width=width, erase=erase)
        case Copy(id=id, dx=dx, dy=dy, clip=clip):
            return editing.copy_instance(layout, id, dx=dx, dy=dy, clip=clip)
        case SetClass(id=id, defect=defect):
            return editing.set_class(layout, id, defect)
        case SetStyle(id=id, style=style):
            return editing.set_style(layout, id, None if style is None else style.style())
        case SetSeverity(id=id, severity=severity):
            return editing.set_severity(layout, id, severity)
        case Restyle(seed=seed):
            return editing.restyle_all(layout, seed)
        case SwapStyles(first=first, second=second):
            return editing.swap_styles(layout, first, second)
        case Lock(id=id, locked=locked):
            return editing.lock_instance(layout, id, locked=locked)
        case _:
            assert_never(edit)


@dataclass(frozen=True, eq=False)
class History:
    """A layout with its past and, after an undo, its future.

    first: the layout before any edit. edits: in the order they were made. undone: the last one undone comes first.
    """

    first: Layout
    edits: tuple[Edit, ...] = ()
    undone: tuple[Edit, ...] = ()

    @cached_property
    def layout(self) -> Layout:
        """After all edits. Raises ValueError that names the edit which does not fit."""
        return self.states[-1]

    @property
    def states(self) -> list[Layout]:
        """The first layout and the one after each edit. Raises ValueError that names the edit which does not fit."""
        states = [self.first]
        for number, edit in enumerate(self.edits, start=1):
            try:
                states.append(apply_edit(states[-1], edit))
            except ValueError as error:
                raise ValueError(f"edit {number} ({edit.op}): {error}") from error
        return states

    def then(self, edit: Edit) -> "History":
        """With one more edit; what was undone is forgotten. Raises ValueError when the edit does not fit."""
        after = replace(self, edits=(*self.edits, edit), undone=())
        vars(after)["layout"] = apply_edit(self.layout, edit)  # else a thousand edits are half a million replays
        return after

    def undo(self, steps: int = 1) -> "History":
        """Without the last edits. Raises ValueError when there are not so many."""
        kept = len(self.edits) - steps
        if steps < 0 or kept < 0:
            raise ValueError(f"cannot undo {steps} edits; there are {len(self.edits)}")
        return replace(self, edits=self.edits[:kept], undone=(*self.edits[kept:], *self.undone))

    def redo(self, steps: int = 1) -> "History":
        """With the last undone edits again. Raises ValueError when there are not so many."""
        if not 0 <= steps <= len(self.undone):
            raise ValueError(f"cannot redo {steps} edits; {len(self.undone)} are undone")
        return replace(self, edits=(*self.edits, *self.undone[:steps]), undone=self.undone[steps:])
