"""Lines and branches that the tests reach, by package: python tests/line_coverage.py REPORT.json LIMIT

REPORT.json: of `coverage json`. Ends with 1 when fewer than LIMIT percent of the lines of a package are reached.
"""

import json
import sys
from collections import Counter
from pathlib import Path

PACKAGES = ("fastsynth", "generators", "segment")


def by_package(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, Counter[str]]:
    """Sums of the counts in coverage's summaries; packages of which no file was loaded have none."""
    found: dict[str, Counter[str]] = {name: Counter() for name in PACKAGES}
    for path, report in files.items():
        found[Path(path).parts[0]].update({key: n for key, n in report["summary"].items() if isinstance(n, int)})
    return found


def main(report: Path, limit: float) -> int:
    failed = 0
    for name, counts in by_package(json.loads(report.read_text(encoding="utf-8"))["files"]).items():
        lines = 100 * counts["covered_lines"] / max(counts["num_statements"], 1)
        branches = 100 * counts["covered_branches"] / max(counts["num_branches"], 1)
        failed += lines < limit
        print(f"{name:12} {lines:5.1f} % of {counts['num_statements']} lines, {branches:5.1f} % of the branches")
    if failed:
        print(f"wanted at least {limit:g} % of the lines of each package")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
