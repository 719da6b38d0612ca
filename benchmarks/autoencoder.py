"""Is the shipped autoencoder good enough? The same UNet, data, steps and sampler in its latents and in a yardstick's.

    python benchmarks/autoencoder.py configs/magnetic_tile.yaml --yardstick FOLDER [--steps 300] [--samples 100]
        [--guidance 1 2]

FOLDER holds taef2_encoder.pth and taef2_decoder.pth (TAEF2, O. B. Bohan, MIT). For both: PSNR of the training defects,
in 128 px crops at native scale and zoomed as FAST does it; then FAST trained on the run's training third, samples from
pure noise on the same layouts and seeds at every guidance_scale, and their foreground KID against the real test
defects; then the difference of the two, on the same halves of both sets. Writes
benchmarks/results/autoencoder_<data>.json and a sheet. The trained models are kept in runs/autoencoder_trial, by the
latents they learnt from: the same command goes on from there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from record import RESULTS, record
from torch import Tensor, nn

from fastsynth.config import load_config
from fastsynth.diffusion.base import build_scheduler, build_unet, load_autoencoder
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.hashing import tensor_bytes
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.diffusion.training import train_fast
from fastsynth.diffusion.views import defect_views, encode_views, normal_views
from fastsynth.files import sha256_bytes, sha256_json
from fastsynth.layouts.crop import Crop, ValueRange, crop_around, cut, to_model
from fastsynth.layouts.exemplar import Exemplar, ExemplarBank
from fastsynth.quality.image_metrics import KID_NAME, defect_crops, kid, kid_of_halves, trunk_features
from fastsynth.recipes.layouts import draw_layouts
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.sheets import contact_sheet, defect_tile, save_sheet
from fastsynth.types import Sample, sample_seed

UNIT = 10
KEPT = Path("runs/autoencoder_trial")
SAVE_EVERY = 100
SIZE = 128


class Block(nn.Module):
    """ReLU(c(x) + x); at the smallest size x first gets a path through a wider, normalised 1×1."""

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        steps: list[nn.Module] = [nn.Conv2d(64, 64, 3, padding=1)]
        for _ in range(2):
            steps += [nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)]
        self.conv = nn.Sequential(*steps)
        self.pool = (
            nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False), nn.GroupNorm(4, 256), nn.ReLU(), nn.Conv2d(256, 64, 1, bias=False)
            )
            if wide
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Yardstick(nn.Module):
    """TAEF2 behind the interface of `CompactAutoencoder`; latents whitened per channel by `measure`."""

    config = {"latent_channels": 32}  # noqa: RUF012 (read like a diffusers config)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        down = [nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False) for _ in range(3)]
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            Block(wide=False),
            *(layer for i in range(3) for layer in (down[i], *(Block(wide=i == 2) for _ in range(3)))),
            nn.Conv2d(64, 32, 3, padding=1),
        )
        up = [layer for blocks in (3, 3, 1) for layer in self._up(blocks)]
        self.decoder = nn.Sequential(
            nn.Identity(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), *(Block(wide=True) for _ in range(3)), *up,
            nn.Conv2d(64, 3, 3, padding=1),
        )  # fmt: skip
        for part in ("encoder", "decoder"):
            tensors = torch.load(folder / f"taef2_{part}.pth", map_location="cpu", weights_only=True)
            getattr(self, part).load_state_dict(tensors)
        self.register_buffer("mean", torch.zeros(1, 32, 1, 1))
        self.register_buffer("std", torch.ones(1, 32, 1, 1))
        self.eval().requires_grad_(False)

    @staticmethod
    def _up(blocks: int) -> list[nn.Module]:
        widen = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        return [nn.Upsample(scale_factor=2), widen, *(Block(wide=False) for _ in range(blocks))]

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def measure(self, pictures: Tensor) -> None:
        """Whitening statistics from pictures (B, 3, H, W) in [-1, 1]."""
        latents = self.encoder((pictures + 1) / 2)
        self.mean, self.std = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)

    def encode(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=(self.encoder((image + 1) / 2) - self.mean) / self.std)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        squashed = torch.tanh((latents * self.std + self.mean) / 3) * 3
        return SimpleNamespace(sample=self.decoder(squashed) * 2 - 1)


def psnr(autoencoder: nn.Module, pictures: Tensor) -> float:
    """Mean over pictures, in dB, of pictures in [-1, 1] clipped to their range."""
    with torch.no_grad():
        decoded = autoencoder.decode(autoencoder.encode(pictures).latents).sample.clamp(-1, 1)
    error = ((decoded - pictures) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def trained(run: Run, autoencoder: nn.Module, exemplars: list[Exemplar], *, steps: int) -> FASTPipeline:
    """FAST, trained in the autoencoder's latents."""
    settings, training, base = run.config.renderer, run.config.renderer.training, run.config.renderer.base.fresh
    torch.manual_seed(run.config.seed)
    pairs = sorted({(e.category, e.defect) for e in exemplars})
    unet = build_unet(
        latent_channels=32,
        size=settings.crop_size,
        block_out_channels=base.block_out_channels,
        layers_per_block=base.layers_per_block,
        token_width=base.token_width,
    )
    tokens = DefectTokens(
        pairs=[list(p) for p in pairs], num_tokens=base.tokens_per_defect, cross_attention_dim=base.token_width
    )
    farm = FARM(in_channels=32, class_embed_dim=base.token_width)
    scheduler = build_scheduler(kernel="exact", spacing="logsnr", solver_order=2)
    parts = FASTPipeline(vae=autoencoder, unet=unet, scheduler=scheduler, farm=farm, tokens=tokens)
    normals = run.training_normals
    rng = np.random.default_rng((run.config.seed, 1))

    def read_normal(index: int) -> tuple[np.ndarray, str]:
        return run.read(normals[index])[0], normals[index].category

    size, context = settings.crop_size, settings.context
    count, clean_count = training.defect_crops // 3, training.normal_crops // 3
    views = defect_views(exemplars, count=count, size=size, context=context, poses=run.poses, rng=rng)
    defects = encode_views(views, parts, total=count)
    clean_views = normal_views(
        read_normal, len(normals), exemplars, count=clean_count, size=size, context=context, poses=run.poses, rng=rng
    )
    clean = encode_views(clean_views, parts, total=clean_count)
    options = training.model_dump(exclude={"defect_crops", "normal_crops", "max_train_steps", "save_every", "patience"})
    learnt_from = sha256_json([sha256_bytes(tensor_bytes(views.latents)) for views in (defects, clean)])
    train_fast(
        parts, defects, clean, output=KEPT / f"{learnt_from[:12]}-{steps}", seed=run.config.seed, max_train_steps=steps,
        save_every=SAVE_EVERY, log=lambda _: None, **options,
    )  # fmt: skip
    return parts


def draw(
    run: Run, parts: FASTPipeline, exemplars: list[Exemplar], *, samples: int, guidance_scale: float
) -> list[Sample]:
    """As many samples from pure noise, without FARM."""
    settings = run.config.renderer
    renderer = FASTRenderer(
        parts,
        ExemplarBank(exemplars),
        context=settings.context,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=guidance_scale,
        farm="off",
        start="noise",
        strength=1.0,
        feather=settings.feather,
        background_mode=settings.background,
    )
    drawn: list[Sample] = []
    for start in range(0, samples, UNIT):
        ids = range(start, start + UNIT)
        drawn += renderer.render(list(draw_layouts(run, ids)), [sample_seed(run.config.seed, i) for i in ids])
    return drawn


def features(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return trunk_features(defect_crops([image for image, _ in pairs], [foreground for _, foreground in pairs]))


def tiles(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return [defect_tile(*pair, size=128, outline=False) for pair in pairs[:10]]


def difference(wanted: np.ndarray, ours: np.ndarray, theirs: np.ndarray, *, seed: int) -> dict[str, float]:
    """Our KID less theirs, on the same halves of the real and of the drawn defects."""
    more = np.subtract(*(kid_of_halves(wanted, each, rng=np.random.default_rng(seed)) for each in (ours, theirs)))
    low, high = np.percentile(more, [2.5, 97.5])
    return {"mean": float(more.mean()), "low": float(low), "high": float(high)}


def zoomed_crop(exemplar: Exemplar) -> np.ndarray:
    """The defect with its surroundings as FAST sees it: (3, 128, 128) in [-1, 1]."""
    crop = crop_around(_box(exemplar.foreground), image_size=exemplar.foreground.shape)
    return to_model(cut(exemplar.image, crop), size=SIZE, values=ValueRange.of(exemplar.image))


def native_crop(exemplar: Exemplar) -> np.ndarray:
    """128 px around the defect's middle at native scale, mirrored at the picture's border: (3, 128, 128) in [-1, 1]."""
    left, top, right, bottom = _box(exemplar.foreground)
    crop = Crop((left + right - SIZE) // 2, (top + bottom - SIZE) // 2, SIZE)
    return to_model(cut(exemplar.image, crop), size=SIZE, values=ValueRange.of(exemplar.image))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--yardstick", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0], help="values of guidance_scale")
    arguments = parser.parse_args()
    run = Run(load_config(RunConfig, arguments.config))
    exemplars = run.exemplars("train")
    real = [run.read_with_halo(record) for record in run.records("test", normal=False)]
    zoomed, native = (torch.from_numpy(np.stack([crop(e) for e in exemplars])) for crop in (zoomed_crop, native_crop))
    yardstick = Yardstick(arguments.yardstick)
    yardstick.measure(zoomed)
    wanted = features(real)
    found: dict[str, dict[str, Any]] = {}
    drawn: dict[float, list[np.ndarray]] = {scale: [] for scale in arguments.guidance}
    rows, labels = [tiles(real[:: len(real) // 10])], ["real"]
    for name, autoencoder in (("shipped", load_autoencoder(None)), ("yardstick", yardstick)):
        parts = trained(run, autoencoder, exemplars, steps=arguments.steps)
        found[name] = {"psnr_db": {"native": psnr(autoencoder, native), "zoomed": psnr(autoencoder, zoomed)}, "kid": {}}
        for scale in arguments.guidance:
            samples = draw(run, parts, exemplars, samples=arguments.samples, guidance_scale=scale)
            pairs = [(sample.image, sample.mask > 0) for sample in samples]
            drawn[scale].append(features(pairs))
            distance = kid(wanted, drawn[scale][-1], rng=np.random.default_rng(run.config.seed))
            found[name]["kid"][f"{scale:g}"] = distance._asdict()
            rows.append(tiles(pairs))
            labels.append(f"{name}, guidance {scale:g}")
            print(labels[-1], distance, flush=True)
    differences = {f"{scale:g}": difference(wanted, *both, seed=run.config.seed) for scale, both in drawn.items()}
    print("shipped - yardstick", differences)
    name = f"autoencoder_{arguments.config.stem}"
    trial_of = {"steps": arguments.steps, "samples": arguments.samples, "seed": run.config.seed, "metric": KID_NAME}
    print(record(name, {"trial": trial_of, "autoencoders": found, "shipped_minus_yardstick": differences}))
    # after the record: a sheet that differs from the committed one would make the commit a dirty one
    save_sheet(RESULTS / f"{name}.jpg", contact_sheet(rows, row_labels=labels, tile=128))


def _box(foreground: np.ndarray) -> tuple[int, int, int, int]:
    y, x = np.nonzero(foreground)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


if __name__ == "__main__":
    main()
