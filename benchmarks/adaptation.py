"""What the shipped base is worth: a few minutes from it beside many from fresh weights, by the held-out loss.

    python benchmarks/adaptation.py configs/magnetic_tile.yaml [--base-steps 150] [--fresh-steps 600]

All are trained on the run's training third by the same loop and judged at the same noise inside the masks of its
validation defects, which none learns from. From the base once more with half of the samples for FARM, to see what they
cost the others. Writes benchmarks/results/adaptation_<data>.json: losses by step and the minutes of training.
Resumable; runs below runs/adaptation_<data>.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from record import record

from fastsynth.config import load_config
from fastsynth.files import read_json
from fastsynth.recipes.rendering import train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def trained(
    config: Path, name: str, *, pretrained: str, steps: int, judge_every: int, changes: list[str]
) -> dict[str, Any]:
    """Held-out losses of one training and what it cost."""
    run = Run(
        load_config(
            RunConfig,
            config,
            [
                f"output=runs/adaptation_{config.stem}/{name}",
                f"renderer.base.pretrained={pretrained}",
                f"renderer.training.max_train_steps={steps}",
                f"renderer.training.judge_every={judge_every}",
                "renderer.training.patience=null",
                *changes,
            ],
        )
    )
    folder = train_renderer(run)
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    losses = {str(line["step"]): round(line["held_out"], 4) for line in lines if "held_out" in line}
    summary = read_json(folder / "training.json")
    return {"steps": steps, "minutes": summary["minutes"], "held_out_loss": summary["held_out_loss"], "by_step": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--base-steps", type=int, default=150)
    parser.add_argument("--fresh-steps", type=int, default=600)
    parser.add_argument("--set", "-s", action="append", default=[], help="key.sub=value over the configuration")
    arguments = parser.parse_args()
    settings = {"config": arguments.config, "judge_every": 50, "changes": arguments.set}
    with_farm = settings | {"changes": [*arguments.set, "renderer.training.farm_share=0.5"]}
    rows = {
        "base": trained(name="base", pretrained="bundled", steps=arguments.base_steps, **settings),
        "base with FARM": trained(name="base_farm", pretrained="bundled", steps=arguments.base_steps, **with_farm),
        "fresh": trained(name="fresh", pretrained="null", steps=arguments.fresh_steps, **settings),
    }
    for name, row in rows.items():
        print(f"{name}: {row['minutes']} min, held-out loss {row['held_out_loss']:.4f}")
    print(record(f"adaptation_{arguments.config.stem}", {"trainings": rows}))


if __name__ == "__main__":
    main()
