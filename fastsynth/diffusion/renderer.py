"""FAST as a renderer: every instance of every layout becomes a crop, all crops go through the pipeline together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastsynth.diffusion.pipeline import BackgroundMode, FARMPlace, FASTPipeline, Start
from fastsynth.layouts.crop import Crop, ValueRange, add_change, crop_around, cut, mask_to_model, paste, to_model
from fastsynth.layouts.exemplar import ExemplarBank, instance_mask, with_contrast_of
from fastsynth.types import Instance, Layout, Sample, instance_seed


@dataclass(frozen=True, eq=False)
class _Job:
    """One instance to draw, at native size.

    foreground: (side, side) bool. source: (side, side, C) float32 in [-1, 1], what the trajectory starts from: the
    background's crop, with start="exemplar" with a real defect warped into the mask.
    """

    layout: Layout
    instance: Instance
    crop: Crop
    foreground: np.ndarray
    source: np.ndarray
    seed: int


class FASTRenderer:
    """Draws all instances of a list of layouts in one batch. The bytes depend on the layouts and seeds of the call.

    Arguments are those of `FASTConfig`, `background_mode` being its `background`; `exemplars` is needed for
    start="exemplar" only.
    """

    name = "fast"

    def __init__(
        self,
        pipeline: FASTPipeline,
        exemplars: ExemplarBank,
        *,
        context: float,
        num_inference_steps: int,
        guidance_scale: float,
        farm: FARMPlace,
        start: Start,
        strength: float,
        feather: float,
        background_mode: BackgroundMode,
    ) -> None:
        self.pipeline, self.exemplars = pipeline, exemplars
        self.context, self.feather = context, feather
        self.guidance_scale = guidance_scale
        self.num_inference_steps, self.farm, self.start, self.strength = num_inference_steps, farm, start, strength
        self.background_mode = background_mode
        pipeline.set_progress_bar_config(disable=True)

    def render(self, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        """One sample per layout; outside its instances' masks the image is the background, bit for bit."""
        jobs = [
            [
                self._job(layout, instance, instance_seed(instance, seed, renderer=self.name))
                for instance in layout.instances
            ]
            for layout, seed in zip(layouts, seeds, strict=True)
        ]
        changes = iter(self._draw(list(itertools.chain.from_iterable(jobs))))
        return [
            self._sample(layout, seed, [(job, next(changes)) for job in of_layout])
            for layout, seed, of_layout in zip(layouts, seeds, jobs, strict=True)
        ]

    def _job(self, layout: Layout, instance: Instance, seed: int) -> _Job:
        crop = crop_around(instance.bbox, image_size=layout.size, context=self.context)
        if self.start == "exemplar":
            source = self.exemplars.warped_into(layout.background, instance, crop, category=layout.category, seed=seed)
        else:
            source = ValueRange.of(layout.background).to_float(cut(layout.background, crop))
        return _Job(layout, instance, crop, instance_mask(instance, crop), source, seed)

    def _draw(self, jobs: Sequence[_Job]) -> np.ndarray:
        """What the model changes in the jobs' sources: (number of jobs, 3, S, S) float32."""
        size = self.pipeline.size
        if not jobs:
            return np.empty((0, 3, size, size), np.float32)
        pictures = np.stack(
            [
                to_model(cut(j.layout.background, j.crop), size=size, values=ValueRange.of(j.layout.background))
                for j in jobs
            ]
        )
        masks = np.stack([mask_to_model(job.foreground, size=size) for job in jobs])
        # what is brighter or darker than the background's picture is added back with the change
        sources = np.stack([to_model(job.source, size=size, values=ValueRange(-1.0, 1.0)) for job in jobs]).clip(-1, 1)
        output = self.pipeline(
            torch.from_numpy(pictures),
            torch.from_numpy(masks),
            [job.layout.category for job in jobs],
            [job.instance.defect for job in jobs],
            exemplar_image=torch.from_numpy(sources) if self.start == "exemplar" else None,
            start=self.start,
            strength=self.strength,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            farm=self.farm,
            background_mode=self.background_mode,
            generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
            output_type="pt",
        )
        assert isinstance(output.images, torch.Tensor)
        change: np.ndarray = output.images.float().cpu().numpy() - sources
        return change

    def _sample(self, layout: Layout, seed: int, changes: Sequence[tuple[_Job, np.ndarray]]) -> Sample:
        image = layout.background.copy()
        values = ValueRange.of(layout.background)
        for job, change in changes:
            drawn = add_change(job.source, change, job.foreground, feather=self.feather)
            if self.start == "exemplar":
                drawn = with_contrast_of(job.source, drawn, job.foreground)
            paste(image, drawn, job.crop, job.foreground, values=values)
        return Sample(
            image=image,
            mask=layout.foreground.astype(np.uint8) * 255,
            layout=layout,
            seed=seed,
            renderer=self.name,
            num_inference_steps=self.num_inference_steps,
            notes={"start": self.start, "strength": self.strength} if self.start != "noise" else {"start": self.start},
        )
