"""How long does `fastsynth demo` take, and is what it makes sound: python benchmarks/demo.py [--checker CHECK_STORE.PY]

Runs the demo in a fresh folder, from making the data to the report, then audits its store, with another program too if
one is given, called as `CHECKER STORE SOURCE_ROOT --split SPLIT.JSON --expect N`. Writes benchmarks/results/demo.json:
minutes by the clock, the peak memory of the largest process, problems found, and the verdict.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

from fastsynth.environment import peak_memory_mb

FASTSYNTH = [sys.executable, "-m", "fastsynth"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checker", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastsynth-demo-") as folder:
        run, data = Path(folder) / "demo", Path(folder) / "demo_data"
        started = time.perf_counter()
        subprocess.run([*FASTSYNTH, "demo", "--output", run], check=True)
        minutes = (time.perf_counter() - started) / 60
        # its stages forget one another's peaks, so each tells its own
        stages = [run / "model" / "training.json", run / "generation.json", *run.glob("segment/*/*/cost.json")]
        peak = max(peak_memory_mb(), *(json.loads(stage.read_text())["peak_memory_mb"] for stage in stages))
        store = run / "synthetic"
        samples = len((store / "manifest.jsonl").read_text().splitlines())
        audited = subprocess.run([*FASTSYNTH, "audit", store, "--data", data, "--split", run / "split.json"])
        values = {
            "minutes": round(minutes, 2),
            "peak_memory_mb": round(peak),
            "samples": samples,
            "audit_exit_code": audited.returncode,
            "verdict": json.loads((run / "metrics.json").read_text())["verdict"],
        }
        if arguments.checker:
            check = [arguments.checker, store, data, "--split", run / "split.json", "--expect", str(samples)]
            checked = subprocess.run([sys.executable, *check], capture_output=True, text=True)
            values["checker"] = {"exit_code": checked.returncode, "said": checked.stdout.strip().splitlines()[-1:]}
        print(values)
        print(record("demo", values))


if __name__ == "__main__":
    main()
