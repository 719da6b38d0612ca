"""FAST in a run's folder: train it on the training third, or load what was trained."""

import importlib.util
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar

from fastsynth.checkpoints import disk_errors
from fastsynth.diffusion.base import build_scheduler
from fastsynth.diffusion.building import new_pipeline
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.hashing import weights_sha256
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.pretrained.config import PretrainedBaseConfig
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.diffusion.training import COMPACT, TrainingSetup, train_fast
from fastsynth.diffusion.views import EncodedViews, encode_views
from fastsynth.environment import reset_peak_memory, stage_peak_mb
from fastsynth.files import sha256_json, write_json
from fastsynth.layouts.exemplar import ExemplarBank
from fastsynth.parallel import main_first, wait_for_all
from fastsynth.processes import process_index
from fastsynth.recipes.trained import made_from, write_trained
from fastsynth.recipes.views import training_views
from fastsynth.run import TRAINED_FROM, Run


def train(run: Run, settings: FASTConfig) -> None:
    """Train FAST on the training defects and normals into `run.model_folder`; the validation defects end it."""
    with run.stage("train"), disk_errors(run.folder):
        write_json(run.model_folder / TRAINED_FROM, run.training_settings())
        reset_peak_memory()
        pipeline = _new_pipeline(run, settings)
        cpu = pipeline.device.type == "cpu"
        with main_first(cpu=cpu):
            views = _encoded_views(run, settings, pipeline)
        result = train_fast(
            pipeline,
            views["defects"],
            views["normals"],
            held_out=views.get("held_out"),
            output=run.training_folder,
            seed=run.config.seed,
            made_from=made_from(run),
            log=lambda values: run.log({"stage": "train", **values}),
            **settings.training.model_dump(exclude={"defect_crops", "normal_crops"}),
            setup=_training_setup(run, settings, pipeline),
        )
        if process_index() == 0:
            pipeline.save_pretrained(run.model_folder)
            summary = {"steps": result.steps, "held_out_loss": result.held_out_loss}
            cost = {"minutes": round(result.seconds / 60, 2), "peak_memory_mb": round(stage_peak_mb(), 1)}
            write_trained(run.model_folder, {**summary, **cost})
        wait_for_all(cpu=cpu)


def load(run: Run, settings: FASTConfig) -> FASTRenderer:
    """The trained renderer, with the settings of sampling as they are now."""
    disable_progress_bar()  # of loading: it is over before it can be read
    return FASTRenderer(
        _load_pipeline(run, settings),
        ExemplarBank(run.exemplars("train")),
        context=settings.context,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        farm=settings.farm,
        start=settings.start,
        strength=settings.strength,
        feather=settings.feather,
        background_mode=settings.background,
    )


def _load_pipeline(run: Run, settings: FASTConfig) -> FASTPipeline:
    if isinstance(settings.base, PretrainedBaseConfig):
        return _pretrained().load(run, settings, settings.base, device_of(run))
    pipeline = FASTPipeline.from_pretrained(run.model_folder)
    pipeline.scheduler = build_scheduler(
        kernel=settings.kernel, spacing=settings.spacing, solver_order=settings.solver_order
    )
    pipeline.to(device_of(run))
    return pipeline


def _training_setup(run: Run, settings: FASTConfig, pipeline: FASTPipeline) -> TrainingSetup:
    if isinstance(settings.base, PretrainedBaseConfig):
        return _pretrained().training_setup(run, settings, settings.base, pipeline)
    return COMPACT


def _pretrained() -> Any:
    """`recipes.pretrained`, whose libraries not everybody has. Raises ImportError with the command that helps."""
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("base.kind is diffusers, which needs transformers; run: pip install 'fastsynth[pretrained]'")
    from fastsynth.recipes import pretrained

    return pretrained


def _encoded_views(run: Run, settings: FASTConfig, pipeline: FASTPipeline) -> dict[str, EncodedViews]:
    """The run's `training_views`, encoded once and kept on disk while the training can still be interrupted."""
    made_from = [
        run.training_sha256(),
        run.config.seed,
        settings.crop_size,
        settings.context,
        settings.training.defect_crops,
        settings.training.normal_crops,
        run.config.layouts.quarter_turns,
        run.config.layouts.flip,
        run.halo,
        weights_sha256(pipeline.vae),
    ]
    folder = run.folder / "cache" / f"views-{sha256_json(made_from)[:12]}"
    found = {}
    for name, (views, total) in training_views(run, settings).items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            encode_views(views, pipeline, total=total).save(path)
        found[name] = EncodedViews.load(path)
    return found


def _new_pipeline(run: Run, settings: FASTConfig) -> FASTPipeline:
    pairs = run.defect_pairs
    if isinstance(settings.base, PretrainedBaseConfig):
        pretrained: FASTPipeline = _pretrained().build(run, settings, settings.base, pairs, device_of(run))
        return pretrained.to(device_of(run))
    pipeline = new_pipeline(
        pairs,
        autoencoder=settings.base.autoencoder,
        pretrained=settings.base.pretrained,
        fresh=settings.base.fresh,
        size=settings.crop_size,
        kernel=settings.kernel,
        spacing=settings.spacing,
        solver_order=settings.solver_order,
        seed=run.config.seed,
    )
    pipeline.to(device_of(run))
    return pipeline


def device_of(run: Run) -> torch.device:
    """Where the run's networks are. Raises ValueError for a device that this machine does not have."""
    return find_device(run.config.device)


def find_device(device: str) -> torch.device:
    """auto: a GPU where there is one. Raises ValueError for a device that this machine does not have."""
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    match device:
        case "auto":
            return torch.device("cuda" if found["cuda"] else "cpu")
        case name if found[name]:
            return torch.device(name)
        case name:
            raise ValueError(
                f"device is {name}, but this machine has {', '.join(d for d in found if found[d])}; use auto"
            )
