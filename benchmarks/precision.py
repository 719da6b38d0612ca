"""What half precision saves a training of FAST, and costs it: python benchmarks/precision.py

The demo's training, on its generated data, in full precision and in bf16, one after the other with the same seed:
minutes of training, and losses inside the masks of validation defects, which are judged in full precision either way.
On processors without units for bf16 it loses. Writes benchmarks/results/precision.json.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from record import ROOT, record

from fastsynth.config import load_config
from fastsynth.data.demo import make_demo
from fastsynth.files import read_json
from fastsynth.recipes.rendering import train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def trained(folder: Path, precision: str) -> dict[str, Any]:
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision
    output = folder / precision
    changes = [f"data.root={folder / 'data'}", f"output={output}", "renderer.training.patience=null"]
    run = Run(load_config(RunConfig, ROOT / "configs" / "demo.yaml", changes))
    minutes = read_json(train_renderer(run) / "training.json")["minutes"]
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {
        "minutes": minutes,
        "held_out": {str(line["step"]): line["held_out"] for line in lines if "held_out" in line},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_demo(Path(folder) / "data", seed=0)
        found = {precision: trained(Path(folder), precision) for precision in ("no", "bf16")}
    for precision, row in found.items():
        print(precision, row)
    print(record("precision", found))


if __name__ == "__main__":
    main()
