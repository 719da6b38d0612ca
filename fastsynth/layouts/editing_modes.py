"""Three ways to turn an edited layout into pictures, with any renderer.

Full: every instance is drawn. Edit: only what changed is drawn into the picture there was.
Paired: with and without the defects, same seeds. In all of them several layouts go through the renderer in one call.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fastsynth.layouts.severity import with_severity
from fastsynth.types import Instance, Layout, Renderer, Sample


class Pair(NamedTuple):
    """One layout with and without its defects, from the same seed."""

    with_defects: Sample
    without: Sample

    @property
    def difference(self) -> np.ndarray:
        """(H, W, C) int32: what the defects changed."""
        difference: np.ndarray = self.with_defects.image.astype(np.int32) - self.without.image
        return difference


def full_render(renderer: Renderer, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
    """Every layout as the renderer draws it, each instance at its severity."""
    return [with_severity(sample) for sample in renderer.render(layouts, seeds)]


def edit_render(
    renderer: Renderer,
    before: Layout,
    after: Sequence[Layout],
    seeds: Sequence[int],
    *,
    picture: np.ndarray | None = None,
) -> list[Sample]:
    """Each layout of `after` as an edit of the picture of `before`: outside `changed_region` bit for bit that picture.

    picture: `before` as it is, (H, W, C) like its background; None: its background shows it. That will do as long as
    no instance of it has to vanish.
    Raises ValueError when the picture is of another size or depth, the background another one than before, or what
    lies below a vanished instance is not known.
    """
    shown = before.background if picture is None else picture
    if shown.shape != before.background.shape or shown.dtype != before.background.dtype:
        raise ValueError(
            f"picture is {shown.dtype} {shown.shape}, its background {before.background.dtype} "
            f"{before.background.shape}; pass the picture at the background's size and depth"
        )
    regions = [changed_region(before, layout) for layout in after]
    for layout, region in zip(after, regions, strict=True):
        if picture is None and before.instances and (region & ~layout.foreground).any():
            raise ValueError(
                f"{before.source}: an instance was removed, moved or made smaller, and no picture without it is known; "
                "give the clean background apart from the picture"
            )
    drawn = full_render(renderer, after, seeds)
    return [
        replace(
            sample,
            image=np.where(region[..., None], sample.image, shown),
            notes={**sample.notes, "mode": "edit", "changed": changed_ids(before, sample.layout)},
        )
        for sample, region in zip(drawn, regions, strict=True)
    ]


def paired_render(renderer: Renderer, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Pair]:
    """Every layout with its defects and without, same seed: normal and defect pairs, and difference maps."""
    clean = [replace(layout, instances=()) for layout in layouts]
    samples = full_render(renderer, [*layouts, *clean], [*seeds, *seeds])
    return [Pair(*pair) for pair in zip(samples[: len(layouts)], samples[len(layouts) :], strict=True)]


def changed_region(before: Layout, after: Layout) -> np.ndarray:
    """(H, W) bool: where another instance than before is on top, or one that changed.

    Raises ValueError when the two lie on different backgrounds.
    """
    if before.background is not after.background and not np.array_equal(before.background, after.background):
        raise ValueError(f"layouts on {before.source} and {after.source}; an edit keeps the background")
    old, new = before.instance_map(), after.instance_map()
    return (old != new) | np.isin(new, changed_ids(before, after))


def changed_ids(before: Layout, after: Layout) -> list[int]:
    """Ids of the instances that are in one layout only, or in both and not alike; locks do not count."""
    old, new = ({instance.id: instance for instance in layout.instances} for layout in (before, after))
    return sorted(id for id in old.keys() | new.keys() if not _alike(old.get(id), new.get(id)))


def _alike(first: Instance | None, second: Instance | None) -> bool:
    if first is None or second is None:
        return False
    return first is second or (
        (first.defect, first.left, first.top, first.warp, first.style, first.severity)
        == (second.defect, second.left, second.top, second.warp, second.style, second.severity)
        and np.array_equal(first.mask, second.mask)
    )
