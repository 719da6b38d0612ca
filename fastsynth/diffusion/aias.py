"""AIAS: few-step ancestral sampling (FAST, Xu et al. 2025, arXiv 2509.20295, section 3.2), as a diffusers scheduler.

Two time scales. Formulas count t = 0 (clean) … T (noise) with ᾱ_0 = 1; the public methods speak diffusers, where the
timestep k = t - 1 of a call runs from 0 to T - 1. One call of the denoiser at t carries the sample from t to the
next boundary s < t, so n calls walk n segments t_1 > t_2 > … > t_n > 0.

One segment is an exact draw from the posterior q(x_s | x_t, x_0):

    x_s = a x_t + b x_0 + √v z,    z ~ N(0, I)

The paper aggregates a, b, v from single steps, but its inner products run over the wrong end of the chain; summed
over the right end they collapse to the closed form of `posterior`. Three older names for the same draw: DDPM on a
subset of its steps, DDIM with η = 1, first-order SDE-DPM-Solver++. `kernel="published"` keeps the printed sums.

B batch, C channels, h w size of the sample, n number of calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def posterior(alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of q(x_s | x_t, x_0) for any s < t: mean a x_t + b x_0, variance v.

    Args:
        alpha_bar_t: ᾱ_t in (0, 1), any shape; float64 recommended, 1 - ᾱ_t / ᾱ_s cancels.
        alpha_bar_s: ᾱ_s in (ᾱ_t, 1], same shape. ᾱ_s = 1 (the clean end) gives exactly a = 0, b = 1, v = 0.
    """
    r = alpha_bar_t / alpha_bar_s
    a = r.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    b = alpha_bar_s.sqrt() * (1 - r) / (1 - alpha_bar_t)
    return a, b, (1 - alpha_bar_s) * (1 - r) / (1 - alpha_bar_t)


def published_kernel(alpha_bar: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel as the paper prints it (Lemma 2, Algorithm 3): right for one-step segments, too noisy for others.

    The printed sums over i = s+1 … t of A_i Π_{j>i} B_j and σ_i² (Π_{j>i} B_j)² telescope to differences of two
    prefix sums, so a segment of any length costs O(1).

    Args:
        alpha_bar: (T+1,) float64, ᾱ_0 = 1 first.
        t, s: (n,) int64, upper and lower ends of n segments, 0 ≤ s < t ≤ T.

    Returns:
        a, b, v: (n,) each; a is that of `posterior`.
    """
    before, after = alpha_bar[:-1], alpha_bar[1:]
    alpha = after / before
    zero = alpha_bar.new_zeros(1)
    mean_sum = torch.cat([zero, ((1 - alpha) / alpha.sqrt()).cumsum(0)])
    variance_sum = torch.cat([zero, ((1 - alpha) * (1 - after) * (1 - before) / after).cumsum(0)])
    a, _, _ = posterior(alpha_bar[t], alpha_bar[s])
    b = alpha_bar[t].sqrt() / (1 - alpha_bar[t]) * (mean_sum[t] - mean_sum[s])
    v = alpha_bar[t] / (1 - alpha_bar[t]) ** 2 * (variance_sum[t] - variance_sum[s])
    return a, b, v


def half_log_snr(alpha_bar: Tensor) -> Tensor:
    """λ = ½ log(ᾱ / (1 - ᾱ)), the time in which solvers take even steps; +inf at the clean end."""
    return torch.logit(alpha_bar) / 2


def spaced_boundaries(alpha_bar: Tensor, n: int, *, start: int, spacing: Literal["logsnr", "uniform"]) -> list[int]:
    """n boundaries start = t_1 > … > t_n ≥ 1; the last segment ends at 0.

    "logsnr": even in λ down to t = 1. The published tail t = 2, 1 would spend one call on a very short segment:
    on Gaussian data ending at 1 directly is better from 3 calls on (at 6 calls 10 % error of the final standard
    deviation against 16 %).
    "uniform": even in t down to 2, then 1, the published "fine" steps; 50 calls give the authors' list.
    Both: with two calls the second stands halfway (at t = 1 it would be wasted), with one call there is only `start`.

    Args:
        alpha_bar: (T+1,) float64, ᾱ_0 = 1 first.
        n: number of boundaries, 1 ≤ n ≤ start.
        start: first boundary, at most T.
    """
    even = half_log_snr(alpha_bar) if spacing == "logsnr" else torch.arange(len(alpha_bar), dtype=alpha_bar.dtype)
    if n <= 2:
        grid = torch.linspace(even[start], even[1], 3, dtype=even.dtype)[:n]
    else:
        low = 1 if spacing == "logsnr" else 2
        grid = torch.linspace(even[start], even[low], n + 1 - low, dtype=even.dtype)
        grid = torch.cat([grid, even[1:low]])
    # to whole steps: the authors truncate; in λ, which has no formula for its inverse, the nearest one
    nearest = (even[1:] - grid[:, None]).abs().argmin(dim=1) + 1
    whole = nearest if spacing == "logsnr" else grid.long()
    boundaries = [start]
    for i, t in enumerate(whole.tolist()[1:], start=1):
        # where the grid is finer than whole steps, neighbours would coincide and a call would be lost
        boundaries.append(min(max(t, n - i), boundaries[-1] - 1))
    return boundaries


@dataclass(frozen=True)
class Segment:
    """x_s = a x_t + b D + √v z with D = x̂_0 + c (x̂_0 - x̂_0 of the segment before)."""

    a: float
    b: float
    v: float
    c: float


@dataclass
class AIASSchedulerOutput(BaseOutput):
    """prev_sample: (B, C, h, w), the sample at the next boundary. pred_original_sample: (B, C, h, w), x̂_0."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class AIASScheduler(SchedulerMixin, ConfigMixin):
    """Ancestral sampling in n calls with an optional second-order correction that costs nothing.

    Second order extrapolates x̂_0 along λ, D = x̂_0 + c (x̂_0 - x̂_0 before), c = min(h / 2h_before, cap), h = λ_s - λ_t;
    the first and the last segment stay first order. It needs the x̂_0 of the segment before, which the scheduler holds
    as diffusers' DPM-Solver does: one scheduler walks one trajectory (of a batch of any size) at a time.

    Reduces to DDPM ("fixed_small") with solver_order=1; to the sampler of the paper with kernel="published",
    spacing="uniform", solver_order=1. The scheduler knows nothing of masks or autoencoders: blend x̂_0 between
    `predict_original` and `step_original`; `step` is the two in a row.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: ends of the β schedule. The defaults are DDIMScheduler's, so that configs survive an
            exchange between the classes; latent diffusion uses 0.00085, 0.012 and "scaled_linear".
        beta_schedule: "linear" in β or "scaled_linear", linear in √β.
        prediction_type: what the denoiser returns: "epsilon", "v_prediction" or "sample" (x_0).
        kernel: "exact" posterior or the "published" sums.
        spacing: see `spaced_boundaries`.
        solver_order: 1 or 2.
        extrapolation_cap: upper bound of c. 0.5 is its value on even λ; more overshoots on uneven steps.

    Raises ValueError for a choice that does not exist.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 (a diffusers convention)
    order = 1  # diffusers' word for calls of the denoiser per entry of `timesteps`
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear"] = "linear",
        prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        kernel: Literal["exact", "published"] = "exact",
        spacing: Literal["logsnr", "uniform"] = "logsnr",
        solver_order: Literal[1, 2] = 2,
        extrapolation_cap: float = 0.5,
    ) -> None:
        _check("beta_schedule", beta_schedule, ("linear", "scaled_linear"))
        _check("prediction_type", prediction_type, ("epsilon", "v_prediction", "sample"))
        _check("kernel", kernel, ("exact", "published"))
        _check("spacing", spacing, ("logsnr", "uniform"))
        _check("solver_order", solver_order, (1, 2))
        power = 2 if beta_schedule == "scaled_linear" else 1
        ends = beta_start ** (1 / power), beta_end ** (1 / power)
        self.betas = torch.linspace(*ends, num_train_timesteps, dtype=torch.float64) ** power
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps).flip(0)
        self._segments: dict[int, Segment] = {}
        self._previous: Tensor | None = None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
        strength: float = 1.0,
    ) -> None:
        """Lay out a trajectory, compute its coefficients in float64, forget the trajectory before.

        Args:
            num_inference_steps: n ≥ 1, exactly the number of calls of the denoiser.
            device: where `timesteps` shall live.
            timesteps: instead of n, the calls themselves: 0-based, strictly falling; the last segment ends clean.
            strength: start at t = round(strength · T) from a partly noised exemplar, and spend all n calls there.

        Raises ValueError if the trajectory cannot be laid out.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("set_timesteps needs either num_inference_steps or timesteps, not both; pass one of them")
        if timesteps is not None:
            boundaries = self._custom_boundaries(timesteps, strength)
        else:
            assert num_inference_steps is not None
            boundaries = self._even_boundaries(num_inference_steps, strength)
        self.num_inference_steps = len(boundaries)
        self.timesteps = torch.tensor(boundaries, device=device) - 1
        self._segments = self._build_segments(boundaries)
        self._previous = None

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample itself; part of the diffusers interface."""
        return sample

    def predict_original(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """x̂_0 from what the denoiser returned for `sample` at `timestep`.

        Args:
            model_output, sample: (B, C, h, w).
            timestep: 0-based, one for all or (B,).
        """
        signal, noise = self._signal_and_noise(timestep, sample)
        match self.config["prediction_type"]:
            case "epsilon":
                return (sample - noise * model_output) / signal
            case "v_prediction":
                return signal * sample - noise * model_output
            case _:
                return model_output

    def step_original(
        self,
        original: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Draw the sample at the next boundary, given x̂_0.

        Args:
            original: (B, C, h, w) x̂_0, blended or not.
            timestep: 0-based, an entry of `timesteps`; walk them in order.
            sample: (B, C, h, w) at `timestep`.
            generator: one for the batch, or one per element (then an element does not depend on its batch).
        """
        segment = self._segment(int(timestep))
        direction = original
        if segment.c > 0:
            if self._previous is None:
                raise ValueError(f"step at timestep {int(timestep)} without the one before it; walk timesteps in order")
            direction = original + segment.c * (original - self._previous)
        self._previous = original
        mean = segment.a * sample + segment.b * direction
        if segment.v == 0:
            return mean
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        return mean + segment.v**0.5 * noise

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> AIASSchedulerOutput | tuple[Tensor, Tensor]:
        """`predict_original`, then `step_original`; arguments as there. The diffusers way to walk."""
        original = self.predict_original(model_output, timestep, sample)
        prev_sample = self.step_original(original, timestep, sample, generator)
        if not return_dict:
            return prev_sample, original
        return AIASSchedulerOutput(prev_sample=prev_sample, pred_original_sample=original)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε; (B, C, h, w), timesteps 0-based, one for all or (B,)."""
        signal, scale = self._signal_and_noise(timesteps, original_samples)
        return signal * original_samples + scale * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """v_t = √ᾱ_t ε - √(1 - ᾱ_t) x_0, the target of v-prediction; shapes as in `add_noise`."""
        signal, scale = self._signal_and_noise(timesteps, sample)
        return signal * noise - scale * sample

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def _signal_and_noise(self, timestep: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t), to be multiplied with `like`."""
        alpha_bar = self.alphas_cumprod[torch.as_tensor(timestep).cpu()].reshape(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)

    def _segment(self, timestep: int) -> Segment:
        if timestep not in self._segments:
            raise ValueError(
                f"timestep {timestep} is not on the trajectory {sorted(self._segments, reverse=True)}; "
                "call set_timesteps and step through scheduler.timesteps"
            )
        return self._segments[timestep]

    def _even_boundaries(self, n: int, strength: float) -> list[int]:
        start = round(strength * len(self))
        if not 0 < strength <= 1 or not 1 <= n <= start:
            raise ValueError(
                f"{n} calls at strength {strength:g} do not fit; use strength in (0, 1] and between 1 and "
                f"strength · {len(self)} calls"
            )
        return spaced_boundaries(self._alpha_bar, n, start=start, spacing=self.config["spacing"])

    def _custom_boundaries(self, timesteps: Sequence[int], strength: float) -> list[int]:
        boundaries = [int(k) + 1 for k in timesteps]
        falling = boundaries == sorted(set(boundaries), reverse=True)
        if not boundaries or not falling or boundaries[0] > len(self) or boundaries[-1] < 1:
            raise ValueError(f"timesteps are {list(timesteps)}; pass strictly falling ones from {len(self) - 1} … 0")
        if strength != 1:
            raise ValueError(f"strength is {strength:g}, but custom timesteps already say where to start; drop one")
        return boundaries

    @property
    def _alpha_bar(self) -> Tensor:
        """(T+1,) float64 in the time of the formulas: ᾱ_0 = 1 first."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod])

    def _build_segments(self, boundaries: list[int]) -> dict[int, Segment]:
        alpha_bar = self._alpha_bar
        t, s = torch.tensor(boundaries), torch.tensor([*boundaries[1:], 0])
        if self.config["kernel"] == "published":
            a, b, v = published_kernel(alpha_bar, t, s)
        else:
            a, b, v = posterior(alpha_bar[t], alpha_bar[s])
        c = torch.zeros_like(a)
        if self.config["solver_order"] == 2:
            h = half_log_snr(alpha_bar[s]) - half_log_snr(alpha_bar[t])
            # not the last: h is infinite at the clean end
            c[1:-1] = (h[1:-1] / (2 * h[:-2])).clamp(max=self.config["extrapolation_cap"])
        rows = torch.stack([a, b, v, c], dim=1).tolist()
        return {k - 1: Segment(*row) for k, row in zip(boundaries, rows, strict=True)}


def _check(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
