"""Hugging Face ImageFolder: train/metadata.jsonl names image, mask (0, 255) and class indices (id2label.json). Exact.

The files keep 16 bits; what `datasets` decodes of a 16-bit colour picture is Pillow's 8 bits.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from fastsynth.data.export.folder import write
from fastsynth.data.export.reading import StoredSample
from fastsynth.data.manifest import CARD
from fastsynth.files import write_json
from fastsynth.images import encode_png

COLUMNS = ("id", "category", "defect", "renderer", "source_image", "seed")


def write_imagefolder(samples: Iterable[StoredSample], folder: Path, *, names: list[str], card: str) -> None:
    """card: text of README.md, which the hub shows."""
    train = folder / "train"
    train.mkdir()
    with (train / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for sample in samples:
            files = {
                "file_name": (f"images/{sample.id}.png", sample.data("image")),
                "mask_file_name": (f"masks/{sample.id}.png", sample.data("mask")),
                "classes_file_name": (f"classes/{sample.id}.png", encode_png(sample.classes)),
            }
            for name, data in files.values():
                write(train / name, data)
            row = {key: name for key, (name, _) in files.items()} | {key: sample.line[key] for key in COLUMNS}
            metadata.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / CARD).write_text(card, encoding="utf-8")
    write_json(folder / "id2label.json", dict(enumerate(["background", *names])))
