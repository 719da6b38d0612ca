"""WebDataset: shard-000000.tar, … of <id>.png, <id>.mask.png and <id>.json. Exact.

Where there are several: <id>.classes.png with class indices, <id>.instances.png with instance ids.
"""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from fastsynth.data.export.reading import StoredSample

SHARD_BYTES = 100_000_000


def write_webdataset(samples: Iterable[StoredSample], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """A shard is closed once it holds `shard_bytes`."""
    shard, number = None, 0
    try:
        for sample in samples:
            if shard is None:
                shard = tarfile.open(folder / f"shard-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                number += 1
            files = {"png": sample.data("image"), "mask.png": sample.data("mask")}
            for key, suffix in (("classes", "classes.png"), ("instance_map", "instances.png")):
                if key in sample.line:
                    files[suffix] = sample.data(key)
            files["json"] = json.dumps(sample.line, sort_keys=True, ensure_ascii=False).encode()
            for suffix, data in files.items():
                entry = tarfile.TarInfo(f"{sample.id}.{suffix}")  # dated 1970, nobody's: same store, same bytes
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
            shard.members.clear()  # type: ignore[attr-defined]  # or memory grows with the shard
            if shard.offset >= shard_bytes:
                shard.close()
                shard = None
    finally:
        if shard is not None:
            shard.close()
