"""What a picture of full size costs on the CPU: python benchmarks/renderers.py [network]

CRN and pix2pixHD, global and with a local enhancer, in their published sizes with random weights, which cost what
trained ones do. One thread; each case in a process of its own, so that its peak memory is its own. Prints and records
seconds, also those of the processor alone, for busy machines, and peak memory. A network's name limits it to that one;
what is recorded of the others stays. "whole" cases convolve maps at once, without the bands of `generators.bands`.
"""

import multiprocessing
import sys
import time
from typing import Any

import torch
from record import RESULTS, record

from fastsynth.environment import environment, peak_memory_mb
from fastsynth.files import read_json
from generators import bands
from generators.crn import CRN
from generators.layout_model import LayoutModel
from generators.pix2pixhd import Pix2PixHDGenerator

LIMIT_MB = 6000
"""For every network in bands, above all the local enhancer at 2048×1024."""
CASES = (
    ("crn", 512, True),
    ("crn", 1024, True),
    ("crn", 1024, False),
    ("pix2pixhd global", 512, True),
    ("pix2pixhd global", 1024, True),
    ("pix2pixhd local", 512, True),
    ("pix2pixhd local", 1024, True),
    ("pix2pixhd local", 1024, False),
)
"""Network, height of a picture twice as wide, in bands or whole."""


def build(network: str, height: int) -> LayoutModel:
    generator: CRN | Pix2PixHDGenerator
    match network:
        case "crn":
            generator = CRN.published(512 if height == 512 else 1024)
        case "pix2pixhd global":
            generator = Pix2PixHDGenerator.published()
        case _:
            generator = Pix2PixHDGenerator.published(num_enhancers=1)
    names = tuple(str(number) for number in range(int(generator.config["num_classes"])))
    return LayoutModel(generator.eval(), names)


def measure(case: tuple[str, int, bool]) -> dict[str, Any]:
    """One picture of a layout of stripes, with parameters that could take gradients: drawing must not keep a graph."""
    network, height, banded = case
    torch.set_num_threads(1)
    if not banded:
        bands.LARGEST = 2**62
    model = build(network, height)
    built = peak_memory_mb()
    columns = torch.arange(2 * height) * len(model.class_names) // (2 * height)
    labels = columns.expand(height, -1).contiguous()
    started, began = time.perf_counter(), time.process_time()
    picture = model.draw(labels, labels, seed=0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - began
    assert not picture.requires_grad
    assert picture.shape == (3, height, 2 * height)
    return {
        "network": network,
        "width": 2 * height,
        "height": height,
        "banded": banded,
        "parameters": sum(parameter.numel() for parameter in model.generator.parameters()),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_when_built_mb": built,
    }


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all cases in their order, a new one in place of the old one of the same case."""
    by_case = {(row["network"], row["height"], row["banded"]): row for row in (*old, *new)}
    return [by_case[case] for case in CASES if case in by_case]


def main(only: str) -> None:
    context, rows = multiprocessing.get_context("spawn"), []
    for case in (case for case in CASES if only in case[0]):
        with context.Pool(1) as pool:
            row = pool.apply(measure, (case,))
        rows.append(row)
        how = "" if row["banded"] else ", whole"
        print(
            f"{row['network']:17} {row['width']}×{row['height']}{how}: {row['seconds']:.0f} s "
            f"({row['cpu_seconds']:.0f} s of the processor), peak {row['peak_memory_mb'] / 1000:.2f} GB",
            flush=True,
        )
    known, old = RESULTS / "renderers.json", []
    if known.is_file():
        before = read_json(known)
        old = [{"commit": before["commit"], **row} for row in before["rows"]]  # the file's is that of the last command
    rows = merged(old, [{**row, "commit": environment()["commit"]} for row in rows])
    print(record("renderers", {"threads": 1, "limit_mb": LIMIT_MB, "rows": rows}))
    if above := [row for row in rows if row["banded"] and row["peak_memory_mb"] > LIMIT_MB]:
        raise SystemExit(f"{above[0]['network']}: {above[0]['peak_memory_mb']:.0f} MB, limit {LIMIT_MB}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
