"""Samplers of diffusers with the methods FASTPipeline asks of AIAS, so that masks are blended alike with all of them.

Between prediction and step the pipeline mixes x̂_0 with the background, so a step has to start from x̂_0. Whatever the
denoiser predicts, every borrowed scheduler is told it predicts ε, and is handed the ε that the mixed x̂_0 implies:

    ε = (x_t - √ᾱ_t x̂_0) / √(1 - ᾱ_t)

What differs from the plain use in diffusers:

- Multistep solvers remember mixed predictions. Outside the mask these always lead to the background, so what is
  extrapolated there is constant, and the background is met at the clean end.
- PLMS averages ε, as its paper does. Plain diffusers averages v where the denoiser predicts v.
- No x̂_0 is clipped: latents know no range. The last step ends clean (ᾱ = 1) for all of them.
- n calls spend n calls below `strength`; diffusers' image-to-image skips the calls above it.

B batch, C channels, h w size of the latents, T training steps, n calls.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, assert_never

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from torch import Tensor

from fastsynth.diffusion.aias import AIASScheduler, spaced_boundaries

Borrowable = Literal["ddpm", "ddim 0", "ddim 1", "plms", "dpm++ 2m", "sde-dpm++ 2m"]
"""The number of ddim is its η."""
Generators = torch.Generator | list[torch.Generator] | None
Step = Callable[[Tensor, int, Tensor, Generators], Tensor]
"""(ε (B, C, h, w), timestep, x_t (B, C, h, w), generators) → the sample at the next timestep."""


class BorrowedScheduler(AIASScheduler):
    """AIAS's noise levels and predictions, the timesteps and the update of another scheduler.

    levels: whose noise schedule and prediction type are taken.
    spacing: "logsnr" walks AIAS's own boundaries, for schedulers that take any timesteps: DDPM and DPM-Solver++.
        "uniform" makes steps of one length, diffusers' "trailing".
    """

    def __init__(self, kind: Borrowable, levels: AIASScheduler, *, spacing: Literal["logsnr", "uniform"]) -> None:
        super().__init__(**{name: value for name, value in levels.config.items() if not name.startswith("_")})
        self.theirs, self._their_step = _borrow(kind, levels)
        self._even = spacing == "uniform"
        if not self._even and isinstance(self.theirs, DDIMScheduler | PNDMScheduler):
            raise ValueError(f"{kind} makes steps of one length; spacing is logsnr, use uniform")

    def set_timesteps(self, num_inference_steps: int, *, strength: float = 1.0) -> None:
        """Lay out n calls from round(strength · T), rounded to n whole steps where they are even.

        Raises ValueError where diffusers' scheduler has no such trajectory.
        """
        start = round(strength * len(self))
        if self._even:
            timesteps = self._even_timesteps(num_inference_steps, start)
        else:
            boundaries = spaced_boundaries(self._alpha_bar, num_inference_steps, start=start, spacing="logsnr")
            timesteps = [t - 1 for t in boundaries]
        if isinstance(self.theirs, DDPMScheduler | DPMSolverMultistepScheduler):
            self.theirs.set_timesteps(timesteps=timesteps)
        self.timesteps = torch.tensor(timesteps)
        self.num_inference_steps = len(timesteps)

    def step_original(
        self, original: Tensor, timestep: int | Tensor, sample: Tensor, generator: Generators = None
    ) -> Tensor:
        """The sample at the next timestep, given x̂_0, blended or not. Shapes as in AIAS."""
        signal, noise = self._signal_and_noise(timestep, sample)
        epsilon = (sample - signal * original) / noise
        return self._their_step(epsilon, int(timestep), sample, generator)

    def _even_timesteps(self, n: int, start: int) -> Sequence[int]:
        # PLMS walks its first step twice, the second time to correct it: n calls make n - 1 steps
        twice = isinstance(self.theirs, PNDMScheduler)
        steps = n - twice
        if not twice <= steps - 1 < start:
            raise ValueError(f"{n} calls from t = {start} do not fit; use {1 + 2 * twice} to {start} calls")
        stride = start // steps
        timesteps = [stride * i - 1 for i in range(steps, 0, -1)]
        if isinstance(self.theirs, DDIMScheduler | PNDMScheduler):
            # they know no timesteps but the one they are at: the next is T // (their number of steps) below
            self.theirs.set_timesteps(len(self) // stride)
            if len(self) // self.theirs.num_inference_steps != stride:
                raise ValueError(
                    f"{n} calls from t = {start} are steps of {stride}, which no whole number of steps from T = "
                    f"{len(self)} has; use another strength or number of calls"
                )
        return [timesteps[0], timesteps[1], *timesteps[1:]] if twice else timesteps


def _borrow(kind: Borrowable, levels: AIASScheduler) -> tuple[Any, Step]:
    """The scheduler of diffusers, and its update without diffusers' ways of passing and returning."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    common = {name: levels.config[name] for name in names} | {"prediction_type": "epsilon"}
    match kind:
        case "ddpm":
            ddpm = DDPMScheduler(**common, variance_type="fixed_small", clip_sample=False)
            return ddpm, lambda e, t, x, g: ddpm.step(e, t, x, generator=g).prev_sample
        case "ddim 0" | "ddim 1":
            ddim, eta = DDIMScheduler(**common, clip_sample=False), float(kind[-1])
            return ddim, lambda e, t, x, g: ddim.step(e, t, x, eta=eta, generator=g).prev_sample
        case "plms":
            plms = PNDMScheduler(**common, skip_prk_steps=True, set_alpha_to_one=True)
            return plms, lambda e, t, x, g: plms.step(e, t, x).prev_sample
        case "dpm++ 2m" | "sde-dpm++ 2m":
            algorithm = "dpmsolver++" if kind == "dpm++ 2m" else "sde-dpmsolver++"
            solver = DPMSolverMultistepScheduler(**common, algorithm_type=algorithm, solver_order=2)
            return solver, lambda e, t, x, g: solver.step(e, t, x, generator=g).prev_sample
        case _:
            assert_never(kind)
