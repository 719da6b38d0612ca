"""Does a large store stay linear, and memory bounded: python benchmarks/scale.py [samples] [side] [processes]

Makes a store with a trivial renderer (a constant patch on one of 16 noise pictures), then lists, resumes, audits and
exports it, and looks up duplicates among as many fingerprints. Of each it prints seconds, seconds of the processor
(which say the same on a machine that others use too), samples per second and the peak memory of the process that did
it; the audit is also set against reading and decoding the same PNGs with OpenCV in as many threads. 100,000 samples of
64 px need about 1.5 GB of disk.
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from record import record

from fastsynth.data.export.formats import export_store
from fastsynth.data.store import Store, read_manifest
from fastsynth.environment import peak_memory_mb
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png, read_image
from fastsynth.quality.audit import audit
from fastsynth.quality.gate import Duplicates
from fastsynth.quality.gate_config import DuplicateRule
from fastsynth.quality.gate_measures import BITS
from fastsynth.types import Instance, Layout, Sample, sample_seed

SOURCES = 16
IDENTITY = {
    "config_sha256": "c",
    "model_sha256": None,
    "data_sha256": "d",
    "run_seed": 0,
    "version": "0",
    "defects": ["patch"],
}
FORMATS = ("coco", "yolo", "imagefolder", "webdataset", "mvtec")


def make_sources(root: Path, side: int) -> list[str]:
    rng = np.random.default_rng(0)
    names = [f"plate/train/good/{number:03d}.png" for number in range(SOURCES)]
    for name in names:
        smooth = cv2.GaussianBlur(rng.normal(128, 60, (side, side, 3)), (0, 0), 2.0)
        atomic_write(root / name, encode_png(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)))
    return names


def fill(root: Path, count: int, side: int) -> None:
    """A patch of a twelfth of the side, somewhere, 60 levels away from the background."""
    names = make_sources(root / "data", side)
    sources = [read_image(root / "data" / name) for name in names]
    hashes = [sha256_file(root / "data" / name) for name in names]
    size = max(4, side // 12)
    with Store.open(root / "store", identity=IDENTITY) as store:
        for number in range(count):
            rng = np.random.default_rng(number)
            left, top = (int(value) for value in rng.integers(0, side - size, 2))
            background = sources[number % SOURCES]
            patch = Instance(1, "patch", np.ones((size, size), bool), left, top, shape_source="procedural:patch")
            layout = Layout(background, names[number % SOURCES], "plate", (patch,))
            image = background.copy()
            image[top : top + size, left : left + size] ^= 64
            sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, sample_seed(0, number), "patch")
            store.write(number, sample, category="plate", source_sha256=hashes[number % SOURCES], extra={"attempt": 0})
        store.seal()


def resume(root: Path, count: int) -> None:
    """Open the finished store again and see that nothing is missing."""
    with Store.open(root / "store", identity=IDENTITY) as store:
        assert store.done() == set(range(count))
        store.seal()


def decode(root: Path, processes: int) -> None:
    """What the audit cannot do without, done with OpenCV alone."""
    files = sorted((root / "store").rglob("*.png"))
    with ThreadPoolExecutor(processes) as threads:
        for start in range(0, len(files), 512):
            for _ in threads.map(lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED), files[start : start + 512]):
                pass


def _unread(sample_id: int) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError(f"sample {sample_id} is like no other one")


def look_up(count: int) -> None:
    """Each of `count` random fingerprints among those before it."""
    rng = np.random.default_rng(0)
    duplicates = Duplicates(_unread, max_similarity=DuplicateRule().max_similarity)
    for number in range(count):
        mark = int.from_bytes(rng.bytes(BITS // 8), "big")
        assert duplicates.near(mark, before=number) == []
        duplicates.add(number, mark)


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of the processor, and peak memory in 10⁶ bytes, of work in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        before, started, worked = peak_memory_mb(), time.perf_counter(), time.process_time()
        work()
        sender.send((time.perf_counter() - started, time.process_time() - worked, peak_memory_mb(), before))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"a measured process ended with {child.exitcode}")
    seconds, processor, peak, before = receiver.recv()
    return {
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "peak_memory_mb": round(peak),
        "of_which_before_mb": round(before),
    }


def main(count: int, side: int, processes: int) -> None:
    cv2.setNumThreads(1)
    root = Path(tempfile.mkdtemp(prefix="fastsynth-scale-"))
    try:
        work: dict[str, Callable[[], object]] = {
            "generate": lambda: fill(root, count, side),
            "list": lambda: sum(1 for _ in read_manifest(root / "store")),
            "resume": lambda: resume(root, count),
            "decode": lambda: decode(root, processes),
            "audit": lambda: audit(root / "store", data_root=root / "data", split=None, workers=processes),
            "duplicates": lambda: look_up(count),
        }
        for kind in FORMATS:
            target = root / f"as {kind}"
            work[f"export {kind}"] = lambda kind=kind, target=target: export_store(
                root / "store", target, kind=kind, data_root=root / "data"
            )
        rows = {}
        for name, each in work.items():
            rows[name] = measured(each)
            shutil.rmtree(root / name.replace("export", "as"), ignore_errors=True)
            seconds, processor, peak = (rows[name][key] for key in ("seconds", "processor_seconds", "peak_memory_mb"))
            print(
                f"{name:20} {seconds:9.2f} s, {processor:9.2f} s of processor, {count / processor:8.0f} per s of it, "
                f"{peak:6.0f} MB",
                flush=True,
            )
        ratios = {key: rows["audit"][key] / rows["decode"][key] for key in ("seconds", "processor_seconds")}
        print(
            f"audit / decode: {ratios['seconds']:.2f} by the clock, {ratios['processor_seconds']:.2f} of the processor"
        )
        values = {"samples": count, "side": side, "processes": processes, "rows": rows, "audit_over_decode": ratios}
        print(record(f"scale_{count}x{side}", values))
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    arguments = [int(value) for value in sys.argv[1:]]
    main(*(arguments + [100_000, 64, 2][len(arguments) :]))
