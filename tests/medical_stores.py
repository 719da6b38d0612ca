"""A store of copy-pasted lesions on imported slices, without a run: what the tests of the way back start from."""

from pathlib import Path

import numpy as np

from fastsynth.data.datasets import open_dataset
from fastsynth.data.medical.sidecar import notice_of
from fastsynth.data.store import Identity, Store
from fastsynth.files import sha256_file
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.layouts.parts import RealMask
from fastsynth.layouts.sampler import LayoutConfig, LayoutSampler
from fastsynth.layouts.severity import with_severity
from fastsynth.types import sample_seed
from generators.reference import ReferenceRenderer, copy_paste


def fill_store(root: Path, folder: Path, *, count: int, **layouts) -> Path:
    """`count` samples on the normal slices in turn, from all lesions of the data."""
    dataset = open_dataset(root)
    exemplars, masks = [], []
    for record in dataset.defects:
        foreground = read_mask(root / record.mask)
        exemplars.append(
            Exemplar(read_image(root / record.image), foreground, record.category, record.defect, record.mask)
        )
        masks.append(RealMask(record.mask, record.defect, foreground))
    sampler = LayoutSampler(masks, **{**LayoutConfig().model_dump(), **layouts})
    renderer = ReferenceRenderer("copy_paste", copy_paste(ExemplarBank(exemplars), blend="light"), context=2.0)
    names = sorted({record.defect for record in dataset.defects})
    identity = Identity(config_sha256="c", model_sha256=None, data_sha256="d", run_seed=0, version="0", defects=names)
    if notice := notice_of(dataset):
        identity["notice"] = notice
    with Store.open(folder, identity=identity) as store:
        for number in range(count):
            record = dataset.normals[number % len(dataset.normals)]
            rng = np.random.default_rng(number)
            background, defect = read_image(root / record.image), names[number % len(names)]
            layout = sampler.draw(background, record.image, record.category, defect, rng)
            (sample,) = renderer.render([layout], [sample_seed(0, number)])
            sha256 = sha256_file(root / record.image)
            store.write(number, with_severity(sample), category=record.category, source_sha256=sha256, extra={})
    return folder
