"""What a pretrained base trains, and how: FARM, the tokens, perhaps a spatial encoder, perhaps (part of) the UNet.

With a frozen UNet the loss is the published one (docs/fast_paper.md, row 5): FARM's guess, noised with the very noise
of x_t, goes into the UNet, which is to return what x_t asks for; it teaches FARM and the tokens alone. A UNet that
learns would be taught by it to return FARM's blurred guess. It learns as the compact one does instead: FARM's guess in
a share of the samples (`training.farm_share`), under fresh noise, and a target that leads from there back to the clean
latent.
B batch, C latent channels, E entries of the tokens, L prompt length.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.training_utils import cast_training_params
from torch import Tensor, nn

from fastsynth.diffusion.aias import AIASScheduler
from fastsynth.diffusion.base import farm_input, latent_mask
from fastsynth.diffusion.pretrained.latents import cell_size
from fastsynth.diffusion.pretrained.pipeline import PretrainedFASTPipeline, inpainting_channels
from fastsynth.diffusion.pretrained.prompts import Prompt, embed_prompts
from fastsynth.diffusion.pretrained.spatial import with_spatial
from fastsynth.diffusion.training import TrainingNoise

Optimizer = Literal["adamw", "adamw_8bit"]
LEARNED_EMBEDS = "learned_embeds"
LORA = "lora"


class PretrainedParts(nn.Module):
    """The parts of a pipeline that a step needs, as one module; its state is only what is trained.

    masked_loss: error inside the mask alone. latent_size: side of the latents, for an inpainting base.
    """

    ids: Tensor
    slots: Tensor
    grey: Tensor

    def __init__(self, pipeline: PretrainedFASTPipeline, *, latent_size: int, masked_loss: bool = False) -> None:
        super().__init__()
        self.unet, self.farm, self.tokens = pipeline.unet, pipeline.farm, pipeline.tokens
        self.text_encoder, self.spatial = pipeline.text_encoder, pipeline.spatial
        if self.spatial is not None:
            self.spatial.requires_grad_(True)
        cast_training_params([self.unet, self.farm, self.tokens], dtype=torch.float32)
        self.masked_loss, self.inpainting = masked_loss, pipeline.inpainting
        self.cell = cell_size(pipeline.vae)
        prompts = pipeline.prompts()
        self.register_buffer("ids", prompts.ids, persistent=False)
        self.register_buffer("slots", prompts.slots, persistent=False)
        channels = int(pipeline.vae.config["latent_channels"])
        like = torch.zeros(1, channels, latent_size, latent_size, device=pipeline.device)
        with torch.no_grad():
            grey = pipeline.grey_latents(like) if self.inpainting else like
        self.register_buffer("grey", grey, persistent=False)

    def train(self, mode: bool = True) -> "PretrainedParts":
        """The frozen text encoder keeps evaluation mode: some have dropout."""
        super().train(mode)
        self.text_encoder.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Trained weights and FARM's running statistics: gigabytes of frozen weights need no checkpoint."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        frozen = {prefix + name for name, value in self.named_parameters() if not value.requires_grad}
        for name in [name for name in state if name in frozen or name.startswith(f"{prefix}text_encoder.")]:
            del state[name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """The counterpart of `state_dict`. Raises RuntimeError when a trained weight is missing."""
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        wanted = self.state_dict()
        result.missing_keys[:] = [name for name in result.missing_keys if name in wanted]
        if strict and result.missing_keys:
            raise RuntimeError(f"the checkpoint has no {result.missing_keys[0]}; it was made with other settings")
        return result

    def forward(
        self, latents: Tensor, mask_image: Tensor, rows: Tensor, scheduler: AIASScheduler, noise: TrainingNoise
    ) -> dict[str, Tensor]:
        """One training step's tensors: prediction and target (weighted alike), reconstruction. All (B, C, h, w)."""
        learning = any(parameter.requires_grad for parameter in self.unet.parameters())
        mask = latent_mask(mask_image, cell=self.cell)
        alpha_bar = scheduler.alphas_cumprod[noise.timesteps.cpu()].to(latents)[:, None, None, None]
        noisy = scheduler.add_noise(latents, noise.epsilon, noise.timesteps)
        pooled = self.tokens.pooled(rows) if self.farm.config["class_embed_dim"] is not None else None
        reconstruction = self.farm(noisy, mask, noise.timesteps, pooled)
        rewritten = farm_input(noisy, reconstruction, mask, alpha_bar, noise.fresh if learning else noise.epsilon)
        with_farm = noise.with_farm[:, None, None, None] | (not learning)
        x = torch.where(with_farm, rewritten, noisy)
        prediction = self._unet_output(x, latents, mask_image, mask, rows, noise.timesteps)
        kind = scheduler.config["prediction_type"]
        target = right_output(x if learning else noisy, latents, alpha_bar, kind)
        if learning and kind != "sample":
            # errors near t = 0 would explode where x holds FARM's error but hardly any noise
            weight = torch.where(with_farm, (1 - alpha_bar).sqrt(), torch.ones_like(alpha_bar))
            prediction, target = weight * prediction, weight * target
        if self.masked_loss:
            prediction, target = mask * prediction, mask * target
        return {"prediction": prediction, "target": target, "reconstruction": reconstruction}

    def _unet_output(
        self, x: Tensor, latents: Tensor, mask_image: Tensor, mask: Tensor, rows: Tensor, timesteps: Tensor
    ) -> Tensor:
        """float32, of the UNet's own kind."""
        present, places = rows.unique(return_inverse=True)  # every prompt is embedded once, however often it is used
        prompts = Prompt(self.ids[present], self.slots[present])
        context = embed_prompts(self.text_encoder, prompts, self.tokens.vectors)[places]
        context = with_spatial(context, self.spatial, mask_image)
        around = inpainting_channels(latents, mask, self.grey) if self.inpainting else x[:, :0]
        inputs, dtype = torch.cat([x, around], dim=1), self.unet.dtype
        output: Tensor = self.unet(inputs.to(dtype), timesteps, context.to(dtype)).sample
        return output.float()


def right_output(x: Tensor, latents: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What a denoiser has to return for `x` at ᾱ_t to lead back to `latents`; for x_t itself ε, v or x_0 as known.

    x, latents: (B, C, h, w); alpha_bar: (B, 1, 1, 1).
    """
    match prediction_type:
        case "epsilon":
            return (x - alpha_bar.sqrt() * latents) / (1 - alpha_bar).sqrt()
        case "v_prediction":
            return (alpha_bar.sqrt() * x - latents) / (1 - alpha_bar).sqrt()
        case _:
            return latents


def build_optimizer(
    parts: nn.Module, *, learning_rate: float, token_learning_rate: float, kind: Optimizer
) -> torch.optim.Optimizer:
    """AdamW over what is trained, the tokens with a rate of their own.

    Raises ImportError, with the command that helps, for 8 bits without bitsandbytes.
    """
    trained = [(name, value) for name, value in parts.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value for name, value in trained if not name.startswith("tokens.")], "lr": learning_rate},
        {"params": [value for name, value in trained if name.startswith("tokens.")], "lr": token_learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if kind == "adamw":
        return torch.optim.AdamW(groups, weight_decay=0.01)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ImportError("base.optimizer is adamw_8bit, which needs bitsandbytes: pip install bitsandbytes") from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=0.01)
    return optimizer


def save_adapters(pipeline: PretrainedFASTPipeline, folder: Path) -> None:
    """What was learned in the forms other programs read: learned_embeds/ for `load_textual_inversion`, and with
    low-rank corrections lora/ for `load_lora_weights`."""
    pipeline.tokens.save_learned_embeds(folder / LEARNED_EMBEDS)
    if getattr(pipeline.unet, "peft_config", None):
        from diffusers import StableDiffusionPipeline
        from peft.utils import get_peft_model_state_dict

        layers = get_peft_model_state_dict(pipeline.unet)
        StableDiffusionPipeline.save_lora_weights(folder / LORA, unet_lora_layers=layers)
