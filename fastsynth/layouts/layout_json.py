"""A layout with its history as one JSON document, and back, bit for bit.

The pictures lie beside the document and are named in it by file name and hash; nothing in a document can point out of
its folder. Whatever else a document holds is checked before it is believed: types, ranges, sizes, names of keys.
"""

import json
from typing import Annotated, Literal

import numpy as np
from pydantic import FailFast, Field, field_validator

from fastsynth.config import Config, parse_config
from fastsynth.images import MAX_PIXELS
from fastsynth.layouts.editing_history import (
    Add,
    Edit,
    History,
    Id,
    Name,
    Number,
    Pixels,
    RunLengths,
    Seed,
    Severity,
    Side,
    StyleData,
    Text,
    relative_path,
)
from fastsynth.layouts.parts import tight_box
from fastsynth.types import Instance, Layout, Warp

MAX_BYTES = 256_000_000
"""Larger documents are refused."""
MAX_MASK_PIXELS = 4 * MAX_PIXELS
"""Of all masks of a document together: a few bytes of run lengths can stand for any number of pixels."""
MAX_LINES, MAX_LINE = 5, 300
"""Problems named at once, and letters of each: a damaged document can be one endless value."""


class PictureData(Config):
    """A picture beside the document."""

    file: Annotated[str, Field(strict=True, min_length=1, max_length=255, pattern=r"^[^/\\:\x00-\x1f]+$")]
    sha256: Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]

    @field_validator("file")
    @classmethod
    def _beside(cls, file: str) -> str:
        if file in (".", ".."):
            raise ValueError("wanted the name of a file in the document's folder")
        return file


class WarpData(Config):
    """See `fastsynth.types.Warp`."""

    source: Text
    matrix: tuple[Number, Number, Number, Number, Number, Number]
    seed: Seed = 0
    amplitude: Annotated[Number, Field(ge=0)] = 0.0
    wavelength: Annotated[Number, Field(gt=0)] = 64.0


class InstanceData(Config):
    """See `fastsynth.types.Instance`."""

    id: Id
    defect: Name
    mask: RunLengths
    left: Pixels
    top: Pixels
    warp: WarpData | None = None
    shape_source: Text = ""
    style: StyleData | None = None
    locked: Annotated[bool, Field(strict=True)] = False
    severity: Severity = 1.0

    @classmethod
    def of(cls, instance: Instance) -> "InstanceData":
        warp, style = instance.warp, instance.style
        values = {
            **vars(instance),
            "mask": RunLengths.of(instance.mask),
            "warp": None if warp is None else vars(warp),
            "style": None if style is None else StyleData.of(style),
        }
        return parse_config(cls, values, source=f"instance {instance.id}")

    def instance(self, *, size: tuple[int, int]) -> Instance:
        """size: the image's height and width. Raises ValueError for a mask or a style that cannot be."""
        mask = self.mask.decode(largest=size)
        if not mask.any() or tight_box(mask) != (0, 0, mask.shape[1], mask.shape[0]):
            raise ValueError("the mask is empty, or has empty rows or columns at its border; cut them off")
        return Instance(
            self.id,
            self.defect,
            mask,
            self.left,
            self.top,
            warp=None if self.warp is None else Warp(**self.warp.model_dump()),
            shape_source=self.shape_source,
            style=None if self.style is None else self.style.style(),
            locked=self.locked,
            severity=self.severity,
        )


class LayoutDocument(Config):
    """What a layout file holds."""

    format: Literal["fastsynth layout"] = "fastsynth layout"
    version: Literal[1] = 1
    background: PictureData
    """The clean picture."""
    picture: PictureData | None = None
    """The background with the first instances on it, which an edit render keeps; null: that is the background."""
    size: tuple[Side, Side]
    """Height and width of both."""
    source: Text
    """Where the background came from, relative to the data root."""
    category: Name
    seed: Seed
    """Of the looks of instances without a style of their own."""
    instances: Annotated[tuple[InstanceData, ...], FailFast()]
    """Before any edit, in drawing order."""
    edits: Annotated[tuple[Edit, ...], FailFast()] = ()
    undone: Annotated[tuple[Edit, ...], FailFast()] = ()
    """What a redo brings back, first one first."""

    @field_validator("source")
    @classmethod
    def _inside(cls, source: str) -> str:
        return relative_path(source)

    @classmethod
    def of(
        cls, history: History, *, seed: int, background: PictureData, picture: PictureData | None
    ) -> "LayoutDocument":
        """The document of a history. Raises ValueError for names that cannot be folders, or a seed out of range."""
        values = {
            "background": background,
            "picture": picture,
            "size": history.first.size,
            "source": history.first.source,
            "category": history.first.category,
            "seed": seed,
            "instances": tuple(InstanceData.of(instance) for instance in history.first.instances),
            "edits": history.edits,
            "undone": history.undone,
        }
        return parse_config(cls, values, source=f"layout on {history.first.source}")

    def with_history(self, history: History) -> "LayoutDocument":
        """The same document after other edits."""
        return self.model_copy(update={"edits": history.edits, "undone": history.undone})

    def history(self, background: np.ndarray) -> History:
        """background: (H, W, C) uint8 or uint16. Raises ValueError for instances or edits that do not fit it."""
        size = background.shape[:2]
        if size != self.size:
            raise ValueError(f"size is {list(self.size)}, the background's {list(size)}; the pictures do not belong")
        masks = [*(i.mask for i in self.instances), *(e.mask for e in self.edits if isinstance(e, Add))]
        total = sum(mask.size[0] * mask.size[1] for mask in masks)
        if total > MAX_MASK_PIXELS:
            raise ValueError(f"masks of {total:,} pixels in all; at most {MAX_MASK_PIXELS:,} are read")
        instances = []
        for number, data in enumerate(self.instances):
            try:
                instances.append(data.instance(size=self.size))
            except ValueError as error:
                raise ValueError(f"instances.{number}: {error}") from error
        first = Layout(background, self.source, self.category, tuple(instances))
        history = History(first, self.edits, self.undone)
        _ = history.layout  # so that edits which do not fit are found now
        return history


def dump_document(document: LayoutDocument) -> str:
    """JSON text; a line for each instance and edit, so that versions can be compared."""
    values = document.model_dump(mode="json")
    lists = {key: values.pop(key) for key in ("instances", "edits", "undone")}
    head = json.dumps(values, indent=1, ensure_ascii=False).removesuffix("\n}")
    blocks = [
        f' "{key}": [' + ",".join(f"\n  {json.dumps(item, ensure_ascii=False)}" for item in items) + "\n ]"
        for key, items in lists.items()
    ]
    return ",\n".join([head, *blocks]) + "\n}\n"


def parse_document(data: bytes, *, source: str) -> LayoutDocument:
    """Raises ValueError that starts with `source` when `data` is no layout document; unknown keys get the closest."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"{source}: more than {MAX_BYTES:,} bytes; that is no layout")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and endless nesting
        raise ValueError(f"{source} is not readable JSON ({_shortened(str(error))}); write it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{source}: holds a {type(values).__name__}; wanted a layout as fastsynth edit writes it")
    try:
        return parse_config(LayoutDocument, values, source=source)
    except ValueError as error:
        lines = str(error).splitlines()
        more = [f"{source}: and {len(lines) - MAX_LINES} more problems"] if len(lines) > MAX_LINES else []
        raise ValueError("\n".join([*map(_shortened, lines[:MAX_LINES]), *more])) from None


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + " …"
