"""How far AIAS is from the truth where the truth is known: python benchmarks/scheduler.py

Gaussian data of five standard deviations with its exact denoiser, x̂_0 = √ᾱ σ² / (ᾱ σ² + 1 - ᾱ) · x: the samples must
end with the data's standard deviation. Prints the mean relative error for every kernel, spacing, order and number of
denoiser calls (NFE), over 40,000 samples from seed 0.
"""

import itertools

import torch
from record import record

from fastsynth.diffusion.aias import AIASScheduler

STDS = (1.0, 0.5, 0.3, 0.2, 0.1)
NFE = (4, 8, 10, 20, 50)
SAMPLES, SEED = 40_000, 0
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def std_error(scheduler: AIASScheduler, num_inference_steps: int) -> float:
    std = torch.tensor(STDS, dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(SEED)
    scheduler.set_timesteps(num_inference_steps)
    x = torch.randn((len(STDS), SAMPLES), generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[t]
        x_0 = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * x
        x = scheduler.step(x_0, t, x, generator).prev_sample
    return float((x.std(dim=1, keepdim=True) / std - 1).abs().mean())


def main() -> None:
    cells = []
    for kernel, spacing, order in itertools.product(("exact", "published"), ("logsnr", "uniform"), (2, 1)):
        if kernel == "published" and order == 2:
            continue  # the printed sums know one x̂_0 only
        scheduler = AIASScheduler(
            **SCHEDULE, prediction_type="sample", kernel=kernel, spacing=spacing, solver_order=order
        )
        errors = {str(nfe): std_error(scheduler, nfe) for nfe in NFE}
        cells.append({"kernel": kernel, "spacing": spacing, "solver_order": order, "std_error": errors})
        print(f"{kernel:9} {spacing:7} order {order}: ", *(f"{nfe} calls {e:6.1%}" for nfe, e in errors.items()))
    print(record("scheduler", {"samples": SAMPLES, "seed": SEED, "stds": STDS, "cells": cells}))


if __name__ == "__main__":
    main()
