"""The cells of the sampler study: a star around the default renderer and around pure synthesis, axis by axis.

The full product would be tens of thousands of cells. Every axis varies one or two factors; all samplers walk the whole
axis of calls. Left out because tests show them to be the same draw (tests/diffusion/test_borrowed.py): DDPM and
first-order AIAS on one spacing, and SDE-DPM-Solver++ and second-order AIAS on log-SNR, but for AIAS's cap on how far it
extrapolates, which binds at 20 calls and more.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from borrowed import Borrowable, BorrowedScheduler

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.pipeline import BackgroundMode, FARMPlace, Start

Sampler = Literal["aias exact", "aias published"] | Borrowable
CALLS = (2, 4, 6, 10, 20, 50)
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Cell:
    """One way to sample. The defaults are those of the FAST renderer.

    spacing and order: of AIAS and DPM-Solver++; the other samplers have one of each.
    calls: steps, wanted; with guidance_scale above 1 each calls the denoiser twice. strength: 1 from noise.
    """

    sampler: Sampler = "aias exact"
    spacing: Literal["logsnr", "uniform"] = "logsnr"
    order: int = 2
    calls: int = 10
    farm: FARMPlace = "off"
    start: Start = "exemplar"
    strength: float = 0.2
    background: BackgroundMode = "x0_blend"
    guidance_scale: float = 1.0

    @property
    def name(self) -> str:
        """Unique, and fit for a file: aias-exact_logsnr_order2_calls10_farm-input_exemplar-0.2_x0_blend."""
        sampler = self.sampler.replace(" ", "-").replace("+", "p")
        start = self.start if self.start == "noise" else f"{self.start}-{self.strength:g}"
        steps = f"{self.spacing}_order{self.order}_calls{self.calls:02}"
        guided = "" if self.guidance_scale == 1 else f"_guided-{self.guidance_scale:g}"
        return f"{sampler}_{steps}_farm-{self.farm}_{start}_{self.background}{guided}"

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def scheduler(self, levels: AIASScheduler) -> AIASScheduler:
        """The cell's scheduler, with the noise levels and the prediction type of `levels`."""
        if self.sampler in get_args(Borrowable):
            return BorrowedScheduler(self.sampler, levels, spacing=self.spacing)
        changes = {"kernel": self.sampler.split()[1], "spacing": self.spacing, "solver_order": self.order}
        found: AIASScheduler = AIASScheduler.from_config(levels.config, **changes)
        return found

    def settings(self, renderer: FASTConfig) -> FASTConfig:
        """`renderer` with what of the cell a configuration can say: all but the samplers of diffusers."""
        changes = {
            "num_inference_steps": self.calls,
            "farm": self.farm,
            "start": self.start,
            "strength": self.strength,
            "background": self.background,
            "guidance_scale": self.guidance_scale,
        }
        if self.sampler not in get_args(Borrowable):
            changes |= {"kernel": self.sampler.split()[1], "spacing": self.spacing, "solver_order": self.order}
        return renderer.model_copy(update=changes)


DEFAULT = Cell()
NOISE = replace(DEFAULT, farm="input", start="noise", strength=1.0)
HALFWAY = replace(DEFAULT, strength=0.5)
PUBLISHED = replace(NOISE, sampler="aias published", spacing="uniform", order=1, calls=50)

# as they are usually run
SAMPLERS = [
    {"sampler": "aias exact", "spacing": "logsnr", "order": 2},
    {"sampler": "aias published", "spacing": "uniform", "order": 1},
    {"sampler": "ddpm", "spacing": "uniform", "order": 1},
    {"sampler": "ddim 0", "spacing": "uniform", "order": 1},
    {"sampler": "ddim 1", "spacing": "uniform", "order": 1},
    {"sampler": "plms", "spacing": "uniform", "order": 4},
    {"sampler": "dpm++ 2m", "spacing": "uniform", "order": 2},
    {"sampler": "dpm++ 2m", "spacing": "logsnr", "order": 2},
    {"sampler": "sde-dpm++ 2m", "spacing": "uniform", "order": 2},
]


def _calls_from_noise() -> Iterator[Cell]:
    for sampler in SAMPLERS:
        # PLMS needs a third call for its second step
        yield from (replace(NOISE, calls=n, **sampler) for n in CALLS if sampler["sampler"] != "plms" or n > 2)


def _kernel_spacing_order() -> Iterator[Cell]:
    for calls in (4, 10):
        for sampler in ("aias exact", "aias published"):
            for spacing in ("logsnr", "uniform"):
                for order in (1, 2):
                    yield replace(NOISE, sampler=sampler, spacing=spacing, order=order, calls=calls)


AXES: dict[str, list[Cell]] = {
    "Calls, from noise": list(_calls_from_noise()),
    "Calls, by default": [replace(DEFAULT, calls=n) for n in CALLS],
    "Samplers, halfway from an exemplar": [replace(HALFWAY, **sampler) for sampler in SAMPLERS],
    "Kernel, spacing and order": list(_kernel_spacing_order()),
    "FARM and start": [
        replace(centre, farm=farm)
        for centre in (NOISE, replace(HALFWAY, start="farm"), HALFWAY, DEFAULT)
        for farm in ("input", "output", "off")
    ],
    "Start and strength": [
        DEFAULT,
        *(replace(DEFAULT, strength=strength) for strength in STRENGTHS),
        *(replace(DEFAULT, farm="input", start="farm", strength=strength) for strength in STRENGTHS),
        NOISE,
    ],
    "Guidance": [
        replace(centre, guidance_scale=scale)
        for centre in (NOISE, replace(NOISE, farm="off"), HALFWAY, DEFAULT)
        for scale in (1.0, 1.5, 2.0, 3.0)
    ],
    "Background": [
        replace(centre, background=mode)
        for centre in (NOISE, HALFWAY)
        for mode in ("x0_blend", "paste_all", "paste_250_750")
    ],
    "As published": [
        replace(PUBLISHED, farm="output", background="paste_all"),
        replace(PUBLISHED, background="paste_250_750"),
        replace(NOISE, farm="output", background="paste_all"),
    ],
}
"""Axis → its cells; a cell of several axes is measured once. As published: the paper, its code, the paper's places of
FARM and background with the sampler of this package."""

CELLS = list(dict.fromkeys(cell for cells in AXES.values() for cell in cells))
