"""What generation costs outside the models: python benchmarks/overhead.py [samples] [key=value …]

Generates samples of the embedded data set with FAST at 10 calls of the denoiser, gate on, one thread, and prints how
the time divides; then the same samples by one process and by two at once. Weights do not change the time, so they are
fresh. The overrides are those of a run's configuration, e.g. renderer.num_inference_steps=50.
"""

import contextlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from record import record

from fastsynth.config import load_config
from fastsynth.data import store
from fastsynth.data.manifest import Shard
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.files import write_json
from fastsynth.quality.gate import Gate
from fastsynth.recipes import fast, rendering
from fastsynth.recipes.whole import make_demo_data
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.run_config import RunConfig

GATE = {
    "enabled": True,
    "mask": {"min_area": 1},
    "object": {"min_inside": 0.0},
    "visible": {"min_share": 0.0, "sure_share": 0.0},
    "alignment": {"max_outside": 1e9, "max_offset": 1e9},
    "seam": {"min_step": 1.0},
    "copies": {"max_similarity": 1.0},
    "duplicates": {"max_similarity": 1.0},
}
"""Every rule is measured and none refuses: what fresh weights draw would pass no gate."""
DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"


class Stopwatch:
    """Seconds by name; what is measured inside something else counts there alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            self.seconds[name] += took - self._inner.pop()
            self._inner[-1] += took

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Measure every call of `owner.attribute`; what yields is run to its end."""
        original = getattr(owner, attribute)

        def call(*arguments: Any, **settings: Any) -> Any:
            with self.measure(name):
                found = original(*arguments, **settings)
                return iter(list(found)) if isinstance(found, Iterator) else found

        setattr(owner, attribute, call)


def open_run(folder: Path, count: int, overrides: list[str]) -> Run:
    """A run on the embedded data whose model has fresh weights."""
    settings = [
        f"output={folder / 'run'}",
        f"data.root={folder / 'data'}",
        "device=cpu",
        "renderer.num_inference_steps=10",
        f"generate.count={count}",
        f"generate.gate={json.dumps(GATE)}",
    ]
    config = load_config(RunConfig, DEMO, [*settings, *overrides])
    assert isinstance(config.renderer, FASTConfig)
    make_demo_data(config)
    run = Run(config)
    pipeline = fast._new_pipeline(run, config.renderer)
    pipeline.save_pretrained(run.model_folder)
    write_json(run.model_folder / TRAINED_FROM, run.training_settings())
    write_json(run.model_folder / fast.TRAINED, {"steps": 0})
    assert run.split  # made now, not in the measured time
    return run


def breakdown(run: Run) -> dict[str, float]:
    """Shares of the wall time, loading the model left out."""
    watch = Stopwatch()
    watch.watch(FASTPipeline, "__call__", "models")
    watch.watch(FASTRenderer, "render", "crop and paste")
    watch.watch(rendering, "draw_layouts", "layouts")
    watch.watch(Gate, "judge", "gate")
    watch.watch(store, "_check", "contract")
    watch.watch(store, "encode_png", "PNG")
    watch.watch(store, "atomic_write", "files")
    watch.watch(store, "append_line", "manifest")
    renderer = rendering.load_renderer(run)
    with watch.measure("everything else"):
        rendering.generate(run, renderer=renderer)
    total = sum(watch.seconds.values())
    return {name: seconds / total for name, seconds in sorted(watch.seconds.items(), key=lambda item: -item[1])}


def throughput(run: Run, processes: int) -> float:
    """Samples per second of so many processes at once, one thread each, all of it counted."""
    shutil.rmtree(run.store_folder, ignore_errors=True)
    context = multiprocessing.get_context("fork")
    work: Callable[[Shard], object] = lambda shard: rendering.generate(run, shard=shard)  # noqa: E731
    started = time.perf_counter()
    children = [context.Process(target=work, args=(Shard(i + 1, processes),)) for i in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return run.config.generate.count / (time.perf_counter() - started)


def main(count: int, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="fastsynth-overhead-"))
    try:
        run = open_run(folder, count, overrides)
        speeds = {processes: throughput(run, processes) for processes in (1, 2)}
        shutil.rmtree(run.store_folder)
        shares = breakdown(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, share in shares.items():
        print(f"{name:16} {share:7.2%}")
    overhead = 1 - shares["models"]
    print(f"outside the models: {overhead:.1%}")
    print(f"samples per second: {speeds[1]:.2f} by one process, {speeds[2]:.2f} by two: {speeds[2] / speeds[1]:.2f}×")
    values = {"samples": count, "overrides": overrides, "shares": shares, "outside_the_models": overhead}
    print(record("overhead", {**values, "samples_per_second": {str(n): speed for n, speed in speeds.items()}}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, sys.argv[2:])
