"""How much of FAST's time is the UNet: python benchmarks/sampling.py [repeats]

Times, in one process and in turn, ten UNet forwards, one decode, one encode, one FARM forward, and the whole pipeline
(tensors in, tensors out) at 10 steps, batch 16, 128 px: from noise with FARM, and as the renderer does it by default.
Prints medians and for both the ratio

    whole pipeline / (10 UNet forwards + decode).

Weights do not change the time, so they are fresh.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from record import record

from fastsynth.diffusion.base import build_scheduler, build_unet, latent_mask, load_autoencoder, unet_input
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.pipeline import FASTPipeline

BATCH, STEPS = 16, 10
STARTS = {
    "noise": {"start": "noise", "farm": "input"},
    "default": {"start": FASTConfig().start, "farm": FASTConfig().farm, "strength": FASTConfig().strength},
}
"""Starts whose whole pipeline is timed."""

Calls = dict[str, Callable[[], object]]


def calls() -> Calls:
    """What is timed, by name."""
    config = FASTConfig()
    size, width = config.crop_size, config.base.fresh.token_width
    vae = load_autoencoder(None)
    channels = int(vae.config["latent_channels"])
    unet = build_unet(
        latent_channels=channels,
        size=size,
        block_out_channels=config.base.fresh.block_out_channels,
        layers_per_block=config.base.fresh.layers_per_block,
        token_width=width,
    )
    farm = FARM(in_channels=channels, class_embed_dim=width)
    tokens = DefectTokens(pairs=[["a", "b"]], num_tokens=config.base.fresh.tokens_per_defect, cross_attention_dim=width)
    scheduler = build_scheduler(kernel="exact", spacing="logsnr", solver_order=2)
    pipeline = FASTPipeline(vae=vae, unet=unet.eval(), scheduler=scheduler, farm=farm.eval(), tokens=tokens)
    pipeline.set_progress_bar_config(disable=True)

    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((BATCH, 3, size, size), generator=generator) * 2 - 1
    masks = torch.zeros(BATCH, 1, size, size)
    masks[:, :, size // 3 : size // 2, size // 3 : size // 2] = 1
    latents = torch.randn((BATCH, channels, size // 8, size // 8), generator=generator)
    rows = torch.zeros(BATCH, dtype=torch.long)
    moment = torch.full((BATCH,), 500)
    draw = partial(
        pipeline,
        pictures,
        masks,
        "a",
        "b",
        exemplar_image=pictures.flip(0),
        num_inference_steps=STEPS,
        generator=generator,
        output_type="pt",
    )

    return {
        "unet": lambda: [unet(unet_input(latents, latents, masks), 500, tokens(rows)) for _ in range(STEPS)],
        "farm": lambda: farm(latents, latent_mask(masks), moment, tokens.pooled(rows)),
        "encode": lambda: vae.encode(pictures),
        "decode": lambda: vae.decode(latents),
        **{name: partial(draw, **arguments) for name, arguments in STARTS.items()},
    }


def timed(parts: Calls, repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, in turn, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, call in parts.items():
                started = time.perf_counter()
                call()
                if repeat > 0:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def main(repeats: int) -> None:
    seconds = timed(calls(), repeats)
    seconds["unet"] = [ten / STEPS for ten in seconds["unet"]]
    median = {name: statistics.median(times) for name, times in seconds.items()}
    least = [STEPS * unet + decode for unet, decode in zip(seconds["unet"], seconds["decode"], strict=True)]
    ratios = {name: [whole / part for whole, part in zip(seconds[name], least, strict=True)] for name in STARTS}
    values = {
        "batch": BATCH,
        "steps": STEPS,
        "threads": torch.get_num_threads(),
        "seconds": {name: {"median": median[name], "min": min(t), "max": max(t)} for name, t in seconds.items()},
        "pipeline_over_unet_and_decode": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()
        },
        "farm_over_unet": median["farm"] / median["unet"],
        "encode_over_unet": median["encode"] / median["unet"],
    }
    for name, value in median.items():
        print(f"{name:9} {value:.3f} s")
    for name, r in ratios.items():
        print(f"{name} / ({STEPS} UNet + decode): {statistics.median(r):.3f} ({min(r):.3f} to {max(r):.3f})")
    print(f"FARM / UNet: {values['farm_over_unet']:.3f}; encode / UNet: {values['encode_over_unet']:.3f}")
    print(record("sampling", values))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
