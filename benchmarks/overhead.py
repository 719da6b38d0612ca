"""What generation costs outside the models: OMP_NUM_THREADS=1 python benchmarks/overhead.py [samples] [key=value …]

Generates samples of the embedded data set with FAST at 10 calls of the denoiser, gate on, one thread, and prints how
the time divides, by the clock and of the processor; then the same samples by one process and by two at once, loading
and merging included. Of the processor's seconds those of the busier process count: they say what two free cores would
do while others use the machine. The gate refuses nothing, so every sample is drawn once, whatever it looks like. The
overrides are those of a run's configuration, e.g. renderer.num_inference_steps=50.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
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
from fastsynth.recipes.trained import TRAINED
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


CLOCKS = time.perf_counter, time.process_time


class Stopwatch:
    """Seconds by name, by the clock and of the processor; what is measured inside something else counts there alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        self._inner = [np.zeros(2)]

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        self._inner.append(np.zeros(2))
        started = _now()
        try:
            yield
        finally:
            took = _now() - started
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


def _now() -> np.ndarray:
    return np.array([clock() for clock in CLOCKS])


def open_run(folder: Path, count: int, overrides: list[str]) -> Run:
    """A run on the embedded data whose model is the base as it was before any training."""
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
    write_json(run.model_folder / TRAINED, {"steps": 0})
    assert run.split  # made now, not in the measured time
    return run


def breakdown(run: Run) -> dict[str, np.ndarray]:
    """Seconds of every part, by the clock and of the processor; loading the model is left out."""
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
    return dict(sorted(watch.seconds.items(), key=lambda item: -item[1][0]))


def throughput(run: Run, processes: int) -> tuple[float, float]:
    """Samples per second of so many processes at once, all of it counted: by the clock, and of the busier processor."""
    shutil.rmtree(run.store_folder, ignore_errors=True)
    context = multiprocessing.get_context("fork")
    used = context.SimpleQueue()

    def work(shard: Shard) -> None:
        before = time.process_time()
        rendering.generate(run, shard=shard)
        used.put(time.process_time() - before)

    started = time.perf_counter()
    children = [context.Process(target=work, args=(Shard(i + 1, processes),)) for i in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    seconds = time.perf_counter() - started, max(used.get() for _ in children)
    return run.config.generate.count / seconds[0], run.config.generate.count / seconds[1]


def main(count: int, overrides: list[str]) -> None:
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1 first: NumPy's own threads would make two processes of one")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = Path(tempfile.mkdtemp(prefix="fastsynth-overhead-"))
    try:
        run = open_run(folder, count, overrides)
        speeds = {processes: throughput(run, processes) for processes in (1, 2)}
        shutil.rmtree(run.store_folder)
        seconds = breakdown(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    values: dict[str, Any] = {"samples": count, "overrides": overrides}
    for place, clock in enumerate(("clock", "processor")):
        total = sum(both[place] for both in seconds.values())
        shares = {name: float(both[place] / total) for name, both in seconds.items()}
        print(f"{clock}: {1 - shares['models']:.1%} outside the models, {1000 * total / count:.1f} ms a sample")
        for name, share in shares.items():
            print(f"  {name:16} {share:7.2%} {1000 * seconds[name][place] / count:8.2f} ms")
        one, two = speeds[1][place], speeds[2][place]
        print(f"  samples per second: {one:.2f} by one process, {two:.2f} by two: {two / one:.2f}×")
        values[clock] = {
            "outside_the_models": 1 - shares["models"],
            "shares": shares,
            "milliseconds_per_sample": 1000 * total / count,
            "samples_per_second": {"1": one, "2": two},
        }
    print(record("overhead", values))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, sys.argv[2:])
