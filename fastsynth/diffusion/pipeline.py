"""FASTPipeline: defects drawn into normal images by foreground-aware diffusion in few steps (FAST, NeurIPS 2025).

Saved and loaded like every diffusers pipeline, with the argument names diffusers users know. It works on squares of
the model's size; `renderer.FASTRenderer` cuts them out of images of any size and pastes them back.
B batch, C latent channels, H W picture size, h = H/8, w = W/8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.base import farm_input, hidden, latent_mask, unet_input
from fastsynth.diffusion.conditioning import DefectTokens
from fastsynth.diffusion.farm import FARM

Start = Literal["noise", "farm", "exemplar"]
FARMPlace = Literal["input", "output", "off"]
BackgroundMode = Literal["x0_blend", "paste_all", "paste_250_750"]
Generators = torch.Generator | list[torch.Generator]
Pictures = Tensor | Image.Image | Sequence[Image.Image]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, h, w), t) → what the UNet predicts, of the scheduler's prediction type."""


@dataclass
class FASTPipelineOutput(BaseOutput):
    """images: a list of PIL images, (B, H, W, 3) float numpy in [0, 1], or (B, 3, H, W) tensor in [-1, 1]."""

    images: list[Image.Image] | np.ndarray | Tensor


class FASTPipeline(DiffusionPipeline):
    """Autoencoder, UNet, AIAS scheduler, FARM and defect tokens."""

    def __init__(
        self,
        vae: CompactAutoencoder,
        unet: UNet2DConditionModel,
        scheduler: AIASScheduler,
        farm: FARM,
        tokens: DefectTokens,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, farm=farm, tokens=tokens)

    @property
    def size(self) -> int:
        """Side in pixels of the squares the UNet was trained on."""
        return int(self.unet.config["sample_size"]) * 8

    @property
    def latent_dtype(self) -> torch.dtype:
        """Number format of the trajectory."""
        return self.unet.dtype

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, C, h, w)."""
        latents: Tensor = self.vae.encode(pictures).latents
        return latents

    def background_picture(self, pictures: Tensor, mask_image: Tensor) -> Tensor:
        """What the encoder sees of the backgrounds: pictures in which the masks are `hidden`."""
        return hidden(pictures, mask_image)

    def training_latents(self, pictures: Tensor, mask_image: Tensor) -> Tensor:
        """What the denoiser learns from: the picture's latents inside the mask, its background's around it."""
        mask = self.latent_mask(mask_image)
        background = self.encode(self.background_picture(pictures, mask_image))
        return mask * self.encode(pictures) + (1 - mask) * background

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 3, H, W) in [-1, 1]."""
        pictures: Tensor = self.vae.decode(latents).sample
        return pictures

    def latent_mask(self, mask_image: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 1, h, w), 1 wherever any pixel is."""
        return latent_mask(mask_image)

    def unet_inputs(self, background: Tensor, mask_image: Tensor) -> Callable[[Tensor], Tensor]:
        """x_t → what the UNet gets to see of it and of these backgrounds."""
        return lambda x: unet_input(x, background, mask_image)

    def context(self, rows: Tensor, mask_image: Tensor) -> Tensor:
        """(B, k, D), what cross-attention reads of the (B,) entries of `tokens`."""
        context: Tensor = self.tokens(rows)
        return context

    def free_context(self, rows: Tensor) -> Tensor:
        """(B, k, D), what guidance leads away from: the normal surfaces of the entries' categories."""
        context: Tensor = self.tokens(self.tokens.normal(rows))
        return context

    def denoiser(
        self, background: Tensor, mask_image: Tensor, rows: Tensor, *, guidance_scale: float = 1.0
    ) -> Denoiser:
        """What the UNet makes of a noisy latent and its timestep, in front of these backgrounds.

        guidance_scale: w of classifier-free guidance, v = v_free + w (v_defect - v_free) (Ho and Salimans 2022, eq. 6,
        whose w is this one less 1). Above 1 a second call of the UNet.
        """
        inputs, context = self.unet_inputs(background, mask_image), self.context(rows, mask_image)
        free = self.free_context(rows) if guidance_scale > 1 else None

        def predict(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            output: Tensor = self.unet(inputs(x), t, context).sample
            return output.to(self.latent_dtype)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            of_defect = predict(x, t, context)
            if free is None:
                return of_defect
            of_free = predict(x, t, free)
            return of_free + guidance_scale * (of_defect - of_free)

        return denoise

    @torch.no_grad()
    def __call__(
        self,
        image: Pictures,
        mask_image: Pictures,
        category: str | Sequence[str],
        defect: str | Sequence[str],
        *,
        exemplar_image: Pictures | None = None,
        start: Start = "noise",
        strength: float = 1.0,
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        farm: FARMPlace = "off",
        background_mode: BackgroundMode = "x0_blend",
        generator: Generators | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
    ) -> FASTPipelineOutput:
        """Draw a defect inside the mask of every image.

        Args:
            image: normal pictures, all of one size with sides that are multiples of 8: PIL, or (B, 3, H, W) in
                [-1, 1]. Best at `size`.
            mask_image: PIL "L", or (B, 1, H, W) of 0 and 1; 1 where the defect shall be.
            category, defect: names the model was trained on, one for all or one per image.
            exemplar_image: with start="exemplar": the pictures with a real defect pasted in.
            start: what the masked part of the trajectory starts from: pure noise, FARM's guess, or the exemplar.
            strength: share of the diffusion time that is run when the start is not noise.
            num_inference_steps: steps, each one call of the UNet.
            guidance_scale: at least 1; above it the prediction is led away from that of a normal surface, which makes
                defects bolder and costs a second call per step.
            farm: "input" lets FARM rewrite the UNet's input inside the mask, "output" (the paper's placement) the
                sample after every step but the last, "off" leaves it out.
            background_mode: what happens around the mask. "x0_blend" puts the background's latents into every x̂_0;
                "paste_all" (the paper) pastes them, noised anew, into every sample; "paste_250_750" (the authors'
                code) only in the middle half of the diffusion time: before and after it the surroundings change too.
            generator: one for all, or one per image (then an image does not depend on its batch).
            output_type: "pil", "np" or "pt".

        Raises ValueError for sizes or counts that differ, unknown names, a missing exemplar or a scale below 1.
        """
        pictures, masks = _to_tensor(image, channels=3), _to_tensor(mask_image, channels=1)
        count, _, height, width = pictures.shape
        if masks.shape != (count, 1, height, width):
            raise ValueError(
                f"mask_image is {tuple(masks.shape)}, image is {tuple(pictures.shape)}; "
                "pass one mask of the same size for every image"
            )
        exemplars = None if exemplar_image is None or start != "exemplar" else _to_tensor(exemplar_image, channels=3)
        if start == "exemplar" and exemplars is None:
            raise ValueError("start='exemplar' without exemplar_image; pass the pictures to start from")
        if exemplars is not None and exemplars.shape != pictures.shape:
            raise ValueError(
                f"exemplar_image is {tuple(exemplars.shape)}, image is {tuple(pictures.shape)}; "
                "pass one exemplar of the same size for every image"
            )
        if guidance_scale < 1:
            raise ValueError(f"guidance_scale is {guidance_scale}; pass 1, which is no guidance, or more")
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(f"{len(generator)} generators for {count} images; pass one for all or one per image")
        rows = torch.tensor(
            [self.tokens.index(c, d) for c, d in zip(_each(category, count), _each(defect, count), strict=True)]
        )

        device, dtype = self._execution_device, self.latent_dtype
        pictures, masks = pictures.to(device, dtype), (masks > 0.5).to(device, dtype)
        background = self.encode(self.background_picture(pictures, masks))
        if exemplars is not None:
            exemplars = exemplars.to(device, dtype)
        guess = None if exemplars is None else self.encode(exemplars)
        latents = self.sample(
            background,
            masks,
            rows.to(device),
            guess=guess,
            start=start,
            strength=strength,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            farm=farm,
            background_mode=background_mode,
            generator=generator,
        )
        around = background if guess is None else guess
        inside = self.latent_mask(masks)
        latents = inside * latents + (1 - inside) * around
        if exemplars is None:
            images = torch.where(masks > 0, self.decode(latents), pictures)
        else:
            images = self._decode_with_detail(latents, exemplars, around)
        return FASTPipelineOutput(images=_from_tensor(images, output_type))

    def _decode_with_detail(self, latents: Tensor, source: Tensor, source_latents: Tensor) -> Tensor:
        """Decode, and give back the fine detail of `source` that its own latents lost: grain, hair-thin lines.

        All (B, ...). Detail = source - decode(encode(source)), so latents equal to the source's give the source.
        """
        decoded, smoothed = self.decode(torch.cat([latents, source_latents])).chunk(2)
        return decoded + (source - smoothed)

    @torch.no_grad()
    def sample(
        self,
        background: Tensor,
        mask_image: Tensor,
        rows: Tensor,
        *,
        guess: Tensor | None,
        start: Start,
        strength: float,
        num_inference_steps: int,
        farm: FARMPlace,
        background_mode: BackgroundMode,
        generator: Generators | None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The sampler, in latents; arguments not named here are those of a call.

        background: (B, C, h, w) latents of `background_picture`. mask_image: (B, 1, H, W). rows: (B,) of `tokens`.
        guess: (B, C, h, w) latents of the exemplars, or None. Returns (B, C, h, w).
        """
        mask = self.latent_mask(mask_image)
        pooled = self.tokens.pooled(rows) if self.farm.config["class_embed_dim"] is not None else None
        denoise = self.denoiser(background, mask_image, rows, guidance_scale=guidance_scale)

        def reconstruct(x: Tensor, t: Tensor) -> Tensor:
            return self.farm(x, mask, t.expand(len(x)).to(x.device), pooled)

        def noise() -> Tensor:
            return randn_tensor(background.shape, generator=generator, device=background.device, dtype=background.dtype)

        def rewritten(x: Tensor, t: Tensor) -> Tensor:
            alpha_bar = self.scheduler.alphas_cumprod[t].to(x)
            return farm_input(x, reconstruct(x, t), mask, alpha_bar, noise())

        full = start == "noise"
        self.scheduler.set_timesteps(num_inference_steps, strength=1.0 if full else strength)
        first = self.scheduler.timesteps[0]
        if start == "farm":
            guess = reconstruct(noise(), torch.tensor(len(self.scheduler) - 1))
        # where there is no guess the masked part is pure noise; around the mask x_T follows q(x_T | background)
        clean = (1 - mask) * background + (0 if guess is None else mask * guess)
        x = self.scheduler.add_noise(clean, noise(), first)

        timesteps = self.scheduler.timesteps
        for t, s in self.progress_bar(list(zip(timesteps, [*timesteps[1:], None], strict=True))):  # None: clean
            x_in = rewritten(x, t) if farm == "input" else x
            x_0 = self.scheduler.predict_original(denoise(x_in, t), t, x_in)
            if background_mode == "x0_blend":
                x_0 = mask * x_0 + (1 - mask) * background
            x = self.scheduler.step_original(x_0, t, x, generator)
            # FARM knows noisy samples only, and a clean one of its own would be a blur
            if farm == "output" and s is not None:
                x = rewritten(x, s)
            if self._is_pasted(background_mode, s):
                around = background if s is None else self.scheduler.add_noise(background, noise(), s)
                x = mask * x + (1 - mask) * around
        return x

    def _is_pasted(self, background_mode: BackgroundMode, s: Tensor | None) -> bool:
        """Whether the background is pasted into a sample of timestep s, None being the clean end."""
        match background_mode:
            case "x0_blend":
                return False
            case "paste_all":
                return True
            case "paste_250_750":
                middle = len(self.scheduler) / 4, 3 * len(self.scheduler) / 4
                return s is not None and middle[0] < int(s) < middle[1]
            case _:
                assert_never(background_mode)


def _each(names: str | Sequence[str], count: int) -> Sequence[str]:
    if isinstance(names, str):
        return [names] * count
    if len(names) != count:
        raise ValueError(
            f"{len(names)} names for {count} images ({', '.join(names)}); pass one for all or one per image"
        )
    return names


def _to_tensor(pictures: Pictures, *, channels: int) -> Tensor:
    """(B, channels, H, W) float: [-1, 1] for pictures, [0, 1] for masks."""
    if isinstance(pictures, Tensor):
        return pictures
    images = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    arrays = [np.asarray(image.convert("RGB" if channels == 3 else "L"), np.float32) / 255 for image in images]
    stacked = torch.from_numpy(np.stack(arrays).reshape(len(arrays), *arrays[0].shape[:2], channels))
    tensor = stacked.permute(0, 3, 1, 2)
    return tensor * 2 - 1 if channels == 3 else tensor


def _from_tensor(pictures: Tensor, output_type: Literal["pil", "np", "pt"]) -> list[Image.Image] | np.ndarray | Tensor:
    if output_type == "pt":
        return pictures
    arrays = ((pictures.clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).float().cpu().numpy()
    if output_type == "np":
        return arrays
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in arrays]
