"""The readers under atheris, which looks for bytes that reach new lines of code: python benchmarks/fuzz.py KIND CORPUS.

KIND is `images` or `config`; further arguments are libFuzzer's, e.g. -max_total_time=180. atheris is not among the
requirements: pip install atheris. Anything but a value or a clean error (ValueError or OSError of one line) ends it.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastsynth", "PIL", "yaml"]):
    from fastsynth.config import load_config
    from fastsynth.images import read_mask, read_undamaged
    from fastsynth.run_config import RunConfig

PLACE = Path(tempfile.mkdtemp()) / "input"


def read(data: bytes, readers: list[Callable[[Path], object]]) -> None:
    """Every reader gets the bytes. Raises what a reader should not."""
    PLACE.write_bytes(data)
    for reader in readers:
        try:
            reader(PLACE)
        except (ValueError, OSError) as error:
            lines = str(error).splitlines()
            assert lines, "an error says something"
            assert all(line.startswith(str(PLACE)) for line in lines), lines


def main() -> None:
    warnings.simplefilter("ignore")
    kind, *arguments = sys.argv[1:]
    readers = {"images": [read_undamaged, read_mask], "config": [lambda path: load_config(RunConfig, path)]}[kind]
    atheris.Setup([sys.argv[0], *arguments], lambda data: read(data, readers))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
