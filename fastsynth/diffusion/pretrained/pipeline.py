"""FAST on a pretrained latent base: the pipeline of the compact model with other parts and a prompt.

The trajectory, the masks and the blending are those of `FASTPipeline`; here is what the parts make of them. The base
calls nothing twice: one encoding per picture ever seen, one call of the UNet per step (two with guidance), one
decoding per batch.
B batch, C latent channels, L prompt length, D token width, H W picture size, h w latent size.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel, VQModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.base import latent_mask
from fastsynth.diffusion.farm import FARM
from fastsynth.diffusion.hashing import tensor_bytes, weights_sha256
from fastsynth.diffusion.pipeline import FASTPipeline
from fastsynth.diffusion.pretrained import latents as codec
from fastsynth.diffusion.pretrained.latents import TensorCache, cell_size
from fastsynth.diffusion.pretrained.prompts import Prompt, PromptTokens, embed_prompts, empty_prompt
from fastsynth.diffusion.pretrained.spatial import SpatialEncoder, with_spatial


class PretrainedFASTPipeline(FASTPipeline):
    """Autoencoder, text encoder and UNet of a pretrained base, with AIAS, FARM and learned tokens.

    crop_size: side in pixels of the squares it was trained on; None takes the base's own size.
    Guidance leads away from what the UNet makes of an empty prompt.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["spatial"]  # noqa: RUF012 (a diffusers convention)
    _exclude_from_cpu_offload = ["farm", "tokens", "spatial"]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | VQModel,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler: AIASScheduler,
        farm: FARM,
        tokens: PromptTokens,
        spatial: SpatialEncoder | None = None,
        crop_size: int | None = None,
    ) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            farm=farm,
            tokens=tokens,
            spatial=spatial,
        )
        self.register_to_config(crop_size=crop_size)
        self._latents, self._contexts = TensorCache(), TensorCache()
        self._stamps = {"vae": b"", "text_encoder": b""}

    @property
    def size(self) -> int:
        """Side in pixels of the squares it was trained on."""
        return int(self.config["crop_size"] or self.unet.config["sample_size"] * cell_size(self.vae))

    @property
    def latent_dtype(self) -> torch.dtype:
        """The trajectory stays in float32 whatever the weights are: ᾱ_T is small and its errors grow."""
        return torch.float32

    @property
    def inpainting(self) -> bool:
        """Whether the UNet sees mask and masked picture besides the noisy latent (9 input channels)."""
        return bool(self.unet.config["in_channels"] != self.unet.config["out_channels"])

    @property
    def prompt_length(self) -> int:
        """L, what the text encoder takes."""
        return int(self.text_encoder.config.max_position_embeddings)

    def cache_in(self, folder: Path) -> None:
        """Keep latents and text embeddings below `folder`, under hashes of weights and content."""
        self._latents, self._contexts = TensorCache(folder / "latents"), TensorCache(folder / "text")
        self._stamps = {name: weights_sha256(getattr(self, name)).encode() for name in self._stamps}

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, C, h, w), each picture by itself and only once."""
        # in a batch a picture's latents would depend on its neighbours in the last bits, and so on the cache
        stamp = self._stamps["vae"] + str(self.vae.dtype).encode()
        found = [
            self._latents.get(stamp + tensor_bytes(picture), partial(codec.encode, self.vae, picture[None]))
            for picture in pictures
        ]
        return torch.cat(found).to(pictures.device)

    def background_picture(self, pictures: Tensor, mask_image: Tensor) -> Tensor:
        """The whole pictures: each is encoded once for all masks, and a frozen base does not learn to read in the
        surroundings what a mask hides."""
        return pictures

    def training_latents(self, pictures: Tensor, mask_image: Tensor) -> Tensor:
        """Latents of the whole pictures, not cached: augmented views do not come again."""
        return codec.encode(self.vae, pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 3, H, W)."""
        return codec.decode(self.vae, latents)

    def latent_mask(self, mask_image: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 1, h, w), 1 wherever any pixel is."""
        return latent_mask(mask_image, cell=cell_size(self.vae))

    def prompts(self) -> Prompt:
        """(E, L) ids and slots, one row per entry of the tokens. Raises ValueError for a prompt that does not fit."""
        found = [
            self.tokens.compose(row, self.tokenizer, length=self.prompt_length)
            for row in range(len(self.tokens.entries))
        ]
        return Prompt(torch.stack([p.ids for p in found]), torch.stack([p.slots for p in found]))

    def grey_latents(self, latents: Tensor) -> Tensor:
        """(1, C, h, w) of a picture of zeros: what an inpainting UNet is shown inside the mask.

        latents: (B, C, h, w), for the size.
        """
        height, width = (side * cell_size(self.vae) for side in latents.shape[-2:])
        return self.encode(torch.zeros(1, 3, height, width, device=latents.device))

    def contexts(self, rows: Tensor) -> Tensor:
        """(B, L, D) text embeddings of (B,) entries, on the CPU."""
        prompts = self.prompts()
        return torch.cat([self._context(Prompt(prompts.ids[row], prompts.slots[row])) for row in rows.tolist()])

    def _context(self, prompt: Prompt) -> Tensor:
        """(1, L, D) of one (L,) prompt."""
        device = self._execution_device
        moved = Prompt(prompt.ids[None].to(device), prompt.slots[None].to(device))
        used = self.tokens.vectors[prompt.slots[prompt.slots >= 0]]
        stamp = self._stamps["text_encoder"] + str(self.text_encoder.dtype).encode()
        content = stamp + tensor_bytes(prompt.ids) + tensor_bytes(prompt.slots >= 0) + tensor_bytes(used)
        return self._contexts.get(
            content, partial(embed_prompts, self.text_encoder, moved, self.tokens.vectors.to(device))
        )

    def unet_inputs(self, background: Tensor, mask_image: Tensor) -> Callable[[Tensor], Tensor]:
        """x_t → what the UNet gets to see: x_t alone, or for inpainting also mask and masked background."""
        around = background[:, :0]
        if self.inpainting:
            around = inpainting_channels(background, self.latent_mask(mask_image), self.grey_latents(background))
        return lambda x: torch.cat([x, around], dim=1).to(self.unet.dtype)

    def context(self, rows: Tensor, mask_image: Tensor) -> Tensor:
        """(B, L, D), the embedded prompts of these entries."""
        prompted = self.contexts(rows).to(mask_image.device)
        return with_spatial(prompted, self.spatial, mask_image).to(self.unet.dtype)

    def free_context(self, rows: Tensor) -> Tensor:
        """(B, L, D), the embedded prompt of no words."""
        unprompted = self._context(empty_prompt(self.tokenizer, length=self.prompt_length))
        return unprompted.to(rows.device, self.unet.dtype).expand(len(rows), -1, -1)


def inpainting_channels(background: Tensor, mask: Tensor, grey: Tensor) -> Tensor:
    """(B, 1 + C, h, w): mask, then the background with grey inside the mask, the order inpainting UNets know.

    They were trained on the encoding of the masked picture; with grey filled in among the latents a picture need not
    be encoded again for every mask. background: (B, C, h, w); mask: (B, 1, h, w); grey: (1, C, h, w).
    """
    return torch.cat([mask, (1 - mask) * background + mask * grey], dim=1)
