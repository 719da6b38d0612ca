"""What half precision saves a training of FAST, and costs it: python benchmarks/precision.py

Steps of the shipped UNet with 16 crops of 128 px, in full precision and in bf16 in turn: seconds of processor time, and
their ratio. On processors without units for bf16 it is above 1. Then the demo's training, on its generated data, in
both with the same seed: losses inside the masks of validation defects, which are judged in full precision either way.
Writes benchmarks/results/precision.json.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from record import ROOT, record

from fastsynth.config import load_config
from fastsynth.data.demo import make_demo
from fastsynth.recipes.rendering import train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

REPEATS = 7
BATCH, CELLS = 16, 16
"""Crops of a step, and cells of the latent along one side of a crop of 128 px."""


def step_seconds() -> dict[str, list[float]]:
    """Of processor time, by precision, after one round of warming up."""
    unet = UNet2DConditionModel.from_pretrained(ROOT / "fastsynth" / "weights" / "base" / "unet").float().train()
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-4)
    latents = torch.randn(BATCH, int(unet.config["in_channels"]), CELLS, CELLS)
    moments, tokens = torch.randint(0, 1000, (BATCH,)), torch.randn(BATCH, 2, int(unet.config["cross_attention_dim"]))
    seconds: dict[str, list[float]] = {"no": [], "bf16": []}
    for repeat in range(REPEATS + 1):
        for precision, times in seconds.items():
            started = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                velocity = unet(latents, moments, tokens).sample
            velocity.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if repeat > 0:
                times.append(time.process_time() - started)
    return seconds


def trained(folder: Path, precision: str) -> dict[str, float]:
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    output = folder / precision
    changes = [f"data.root={folder / 'data'}", f"output={output}", "renderer.training.patience=null"]
    run = Run(load_config(RunConfig, ROOT / "configs" / "demo.yaml", changes))
    train_renderer(run)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {str(line["step"]): line["held_out"] for line in lines if "held_out" in line}


def main() -> None:
    seconds = step_seconds()
    ratios = [half / full for half, full in zip(seconds["bf16"], seconds["no"], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder) / "data", seed=0)
        losses = {precision: trained(Path(folder), precision) for precision in seconds}
    values = {
        "step_seconds": {precision: statistics.median(times) for precision, times in seconds.items()},
        "bf16_over_full": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "held_out_losses": losses,
    }
    for name, value in values.items():
        print(name, value)
    print(record("precision", values))


if __name__ == "__main__":
    main()
