"""A trained layout renderer as one folder: the generator, and for styles an encoder and a bank.

    layout_model.json   kind, names of the classes, kind of styles, id to ignore, λ of the perceptual loss, …
    generator/  encoder/  bank/        `save_pretrained` folders

N classes, D style channels, k outputs, H W picture size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsynth.config import Config, parse_config
from fastsynth.files import read_json, write_json
from fastsynth.types import sample_seed
from generators.crn import CRN, SMALLEST_BASE
from generators.encoding import FIRST_DEFECT, encode_layout
from generators.pix2pixhd import SMALLEST_BOTTLENECK, Pix2PixHDGenerator
from generators.style import StyleBank, StyleEncoder, encode_styles, noise_style, paint_styles
from generators.tones import Tone

Kind = Literal["crn", "pix2pixhd"]
StyleKind = Literal["none", "encoder", "noise"]
DESCRIPTION = "layout_model.json"


class Description(Config):
    """What that file holds, see `LayoutModel`."""

    kind: Kind
    class_names: tuple[str, ...]
    style: StyleKind
    ignore: int | None
    layer_weights: tuple[float, ...]
    win_shares: tuple[tuple[float, ...], ...]
    tones: tuple[Tone, ...]


@dataclass(frozen=True, eq=False)
class LayoutModel:
    """class_names: by id. layer_weights: λ of the trunk's layers it was trained with, empty when unknown.

    win_shares: of k outputs, (k, N), how often each was the best for a class at the end of its training; empty when
    there is but one. tones: of a model that fills holes, by class id, what its drawings lack; empty when not measured.
    """

    generator: CRN | Pix2PixHDGenerator
    class_names: tuple[str, ...]
    style: StyleKind = "none"
    encoder: StyleEncoder | None = None
    bank: StyleBank | None = None
    ignore: int | None = None
    layer_weights: tuple[float, ...] = ()
    win_shares: tuple[tuple[float, ...], ...] = ()
    tones: tuple[Tone, ...] = ()

    @property
    def kind(self) -> Kind:
        return "crn" if isinstance(self.generator, CRN) else "pix2pixhd"

    @property
    def fills_holes(self) -> bool:
        """Whether it draws into a picture instead of a whole one."""
        return bool(self.generator.config["context_channels"])

    @property
    def styled(self) -> bool:
        """Whether every instance of a layout has a look of its own."""
        return bool(self.generator.config["style_channels"])

    @property
    def num_outputs(self) -> int:
        """k, pictures that one pass draws."""
        return int(self.generator.config["num_outputs"]) if isinstance(self.generator, CRN) else 1

    @property
    def multiple(self) -> int:
        """Sides the network takes are multiples of this, and at least `smallest`."""
        config = self.generator.config
        if isinstance(self.generator, CRN):
            return int(2 ** (len(config["widths"]) - 1))
        return int(2 ** (config["num_downsamples"] + config["num_enhancers"]))

    @property
    def smallest(self) -> int:
        """Pixels that each side has at least."""
        return self.multiple * (SMALLEST_BASE if self.kind == "crn" else SMALLEST_BOTTLENECK)

    @torch.no_grad()
    def draw(
        self,
        labels: Tensor,
        instances: Tensor,
        *,
        seed: int,
        output: int | None = None,
        context: Tensor | None = None,
        styles: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """One picture of one layout, (3, H, W) in [-1, 1]; the same seed gives the same picture.

        Args:
            labels, instances: (H, W) integers, any size: it is padded to one the network takes, and cut again.
            seed: chooses the looks; every instance's by the seed and its own id, so that changing one keeps the rest.
            output: which of the k outputs, by default that of `choose_output`.
            context: (4, H, W) of `encoding.surroundings`, for a model that fills holes.
            styles: instance id → (D,) of `centre_style` or `encode_style`, in place of what the seed chooses.

        Raises ValueError for ids out of range, or an instance without a style in a model without a style bank.
        """
        height, width = labels.shape
        planes = self._encode(labels, instances, context, self._styles(labels, instances, seed, styles or {}))
        drawn = self.generator(self._padded(planes[None].to(self.generator.device)))
        if drawn.ndim == 5:
            drawn = drawn[:, self.choose_output(labels, seed=seed) if output is None else output]
        picture: Tensor = drawn[0, :, :height, :width].clamp(-1, 1).float().cpu()
        return picture

    def tone_of(self, label: int) -> Tone:
        """What its drawings of a class lack in brightness and contrast."""
        return self.tones[label] if self.tones else Tone()

    def choose_output(self, labels: Tensor, *, seed: int) -> int:
        """One of the k outputs by chance, as often as it was the best for what is drawn: a defect, or all classes.

        labels: class ids, (H, W) or some pixels of them, (P,).
        """
        present = [label for label in labels.unique().tolist() if label != self.ignore]
        drawn = [label for label in present if label >= FIRST_DEFECT] if self.fills_holes else present
        if not self.win_shares or not drawn:
            return seed % self.num_outputs
        shares = np.asarray(self.win_shares)[:, drawn].mean(axis=1)
        return int(np.random.default_rng(seed).choice(len(shares), p=shares / shares.sum()))

    def save_pretrained(self, folder: Path) -> None:
        self.generator.save_pretrained(folder / "generator")
        for name, part in (("encoder", self.encoder), ("bank", self.bank)):
            if part is not None:
                part.save_pretrained(folder / name)
        description = Description(
            kind=self.kind,
            class_names=self.class_names,
            style=self.style,
            ignore=self.ignore,
            layer_weights=self.layer_weights,
            win_shares=self.win_shares,
            tones=self.tones,
        )
        write_json(folder / DESCRIPTION, description.model_dump())  # last: a folder with it is whole

    @classmethod
    def from_pretrained(cls, folder: Path, *, device: torch.device | str = "cpu") -> Self:
        """Raises FileNotFoundError when there is none; ValueError when its description is damaged, or the bank belongs
        to another encoder."""
        path = folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: no layout renderer ({DESCRIPTION} is missing); train or import one")
        found = _read_description(path)
        encoder, bank = None, None
        if (folder / "encoder").is_dir():
            encoder = StyleEncoder.from_pretrained(folder / "encoder").eval().requires_grad_(False)
        if (folder / "bank").is_dir():
            bank = StyleBank.from_pretrained(folder / "bank")
            if encoder is not None:
                bank.check_encoder(encoder)
        return cls(
            generator=_load_generator(found.kind, folder / "generator").to(device),
            class_names=found.class_names,
            style=found.style,
            encoder=encoder,
            bank=bank,
            ignore=found.ignore,
            layer_weights=found.layer_weights,
            win_shares=found.win_shares,
            tones=found.tones,
        )

    def class_id(self, name: str) -> int:
        """Raises ValueError for a name that the model does not know."""
        if name not in self.class_names:
            raise ValueError(f"{name} is not among the classes of this renderer: {', '.join(self.class_names)}")
        return self.class_names.index(name)

    def instance_styles(self, labels: Tensor, instances: Tensor, *, seed: int) -> dict[int, Tensor]:
        """Instance id → (D,) style: from the bank by class, or noise, by (seed, id).

        labels, instances: (H, W) integers, or some pixels of them, (P,). Raises ValueError for a model without a bank.
        """
        return {
            number: self.seed_style(int(labels[instances == number][0]), sample_seed(seed, number))
            for number in instances.unique().tolist()
        }

    def seed_style(self, label: int, seed: int) -> Tensor:
        """(D,), a look of a class that the seed chooses: from the bank, or noise.

        Raises ValueError for a model without a bank.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.style == "noise":
            return noise_style(int(self.generator.config["style_channels"]), generator=generator)
        if self.bank is None:
            raise ValueError(
                f"this renderer has no style bank to choose a style for an instance of class {label} from; give every "
                "instance a style, train a renderer, or import it with --photos"
            )
        return self.bank.average if label == self.ignore else self.bank.draw(label, generator=generator)

    def centre_style(self, label: int, centre: int) -> Tensor:
        """(D,), one of the centres of a class. Raises ValueError when there is no such centre, or no style bank."""
        if self.bank is None:
            raise ValueError(f"this {self.kind} renderer has no style bank, so no centre {centre}; give a seed instead")
        return self.bank.centre(label, centre)

    @torch.no_grad()
    def encode_style(self, image: Tensor, inside: Tensor) -> Tensor:
        """(D,), how what lies inside looks. image: (3, H, W) in [-1, 1], as in training. inside: (H, W) bool.

        Raises ValueError for a renderer without an encoder.
        """
        if self.encoder is None:
            raise ValueError(
                f"this {self.kind} renderer has no style encoder that could look at a picture; give a seed"
            )
        # the encoder was trained with the global generator alone, each enhancer doubled the size after it
        shrink = 2 ** int(self.generator.config["num_enhancers"])
        planes = encode_styles(self.encoder, image[None], inside[None].long(), shrink=shrink)
        return planes[0][:, inside][:, 0]

    def _styles(self, labels: Tensor, instances: Tensor, seed: int, given: Mapping[int, Tensor]) -> Tensor | None:
        if not self.styled:
            return None
        asked = ~torch.isin(instances, torch.tensor(list(given), dtype=instances.dtype))
        chosen = self.instance_styles(labels[asked], instances[asked], seed=seed)
        styles = paint_styles(instances, {**chosen, **given})
        # in a hole, only what is drawn has a look of its own
        return styles * (labels >= FIRST_DEFECT) if self.fills_holes else styles

    def _encode(self, labels: Tensor, instances: Tensor, context: Tensor | None, styles: Tensor | None) -> Tensor:
        return encode_layout(
            labels[None],
            instances[None] if self.generator.config["edges"] else None,
            None if styles is None else styles[None],
            num_classes=int(self.generator.config["num_classes"]),
            context=None if context is None else context[None],
            ignore=self.ignore,
        )[0]

    def _padded(self, planes: Tensor) -> Tensor:
        """(1, C, H, W) with its last rows and columns repeated up to a size the network takes."""
        below, right = (
            max(self.smallest, math.ceil(side / self.multiple) * self.multiple) - side for side in planes.shape[-2:]
        )
        return F.pad(planes, (0, right, 0, below), mode="replicate")


def _read_description(path: Path) -> Description:
    values = read_json(path)
    try:
        return parse_config(Description, values, source=path.name)
    except ValueError as error:
        first, *_ = str(error).splitlines()
        raise ValueError(f"{path.parent} is damaged ({first}); restore that file, or train or import again") from None


def _load_generator(kind: Kind, folder: Path) -> CRN | Pix2PixHDGenerator:
    match kind:
        case "crn":
            generator: CRN | Pix2PixHDGenerator = CRN.from_pretrained(folder)
        case "pix2pixhd":
            generator = Pix2PixHDGenerator.from_pretrained(folder)
        case _:
            assert_never(kind)
    return generator.eval().requires_grad_(False)
