"""Training in stages of doubling size: CRN grows a module, pix2pixHD an enhancer (arXiv 1707.09405, 1711.11585).

`<output>/stage-<i>/` holds a stage's checkpoints, and when it is finished its networks; the next one starts from them.
So a training that is called again continues in the stage it was stopped in.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from fastsynth.files import read_json, write_json
from fastsynth.parallel import wait_for_all
from fastsynth.processes import process_index
from fastsynth.types import sample_seed
from generators.batches import Source
from generators.encoding import CONTEXT_CHANNELS
from generators.loop import Log, LoopSettings, Task, fit
from generators.sample_sheet import draw_samples

FINISHED = "stage.json"


class Stages:
    """What the stages of both renderers share: folders, sizes, the loop.

    output: folder of the training. fills_holes: the renderer draws into pictures. ignore: id of pixels without class.
    """

    def __init__(
        self,
        source: Source,
        *,
        output: Path,
        steps: tuple[int, ...],
        settings: LoopSettings,
        fills_holes: bool,
        ignore: int | None,
        log: Log,
    ) -> None:
        self.source, self.output, self.steps, self.settings = source, output, steps, settings
        self.context_channels, self.ignore, self.log = CONTEXT_CHANNELS if fills_holes else 0, ignore, log
        self.seconds = 0.0

    def shrink(self, stage: int) -> int:
        """How much smaller than at the end the pictures are."""
        return int(2 ** (len(self.steps) - 1 - stage))

    def folder(self, stage: int) -> Path:
        return self.output / f"stage-{stage + 1}"

    def finished(self, stage: int) -> bool:
        """Raises ValueError when the stage is another training's; those of older versions do not say whose they are."""
        path = self.folder(stage) / FINISHED
        if not path.is_file():
            return False
        if read_json(path).get("made_from", self.settings.made_from) != self.settings.made_from:
            raise ValueError(
                f"{path.parent} is of a training with other settings or images; choose another output, or delete "
                f"{self.output} to train from the start"
            )
        return True

    def seed(self, stage: int) -> int:
        return sample_seed(self.settings.seed, stage)

    def run(self, stage: int, task: Task, *, name: str) -> None:
        """Train one stage to its end, or go on with it."""
        batch = self.source.samples(6, shrink=self.shrink(stage))
        settings = LoopSettings(**{**vars(self.settings), "seed": self.seed(stage)})
        seconds = fit(
            task,
            self.source,
            shrink=self.shrink(stage),
            steps=self.steps[stage],
            output=self.folder(stage),
            settings=settings,
            name=f"{name}, stage {stage + 1} of {len(self.steps)}",
            log=partial(self._log, stage),
            show=partial(draw_samples, self.folder(stage) / "samples", batch),
        )
        self.seconds += seconds

    def _log(self, stage: int, values: dict[str, Any]) -> None:
        """Steps count on over the stages."""
        step = sum(self.steps[:stage]) + values["step"]
        self.log({**values, "part": f"{stage + 1} of {len(self.steps)}", "step": step})

    def finish(self, stage: int, task: Task, networks: Mapping[str, ModelMixin], **numbers: Any) -> None:
        """Keep the networks and numbers of a stage; its last file says that it is whole. The main process writes."""
        if process_index() == 0:
            for name, network in networks.items():
                network.save_pretrained(self.folder(stage) / name)
            numbers |= {"seconds": self.seconds, "layer_weights": task.weights.weights.tolist()}
            write_json(self.folder(stage) / FINISHED, {**numbers, "made_from": self.settings.made_from})
        wait_for_all(cpu=self.settings.device == "cpu")

    def recall(self, stage: int) -> dict[str, Any]:
        """What `finish` kept of a stage: λ as `layer_weights`, and its other numbers. Its seconds count."""
        numbers: dict[str, Any] = read_json(self.folder(stage) / FINISHED)
        self.seconds = float(numbers["seconds"])
        return numbers
