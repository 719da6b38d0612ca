"""Settings of a large pretrained latent base: a folder or hub id that diffusers can read. No torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fastsynth.config import Config

Count = Annotated[int, Field(ge=0)]


class PretrainedBaseConfig(Config):
    """`base` section of the FAST renderer with `kind: diffusers`.

    What of the UNet learns is `training.unet`: frozen as published, lora, or full.
    """

    kind: Literal["diffusers"]
    pretrained: str
    """Folder of a saved Stable Diffusion 1.x, 2.x or inpainting pipeline, or of a latent diffusion one with a BERT
    text encoder; or its hub id. A folder never touches the network."""
    download: bool = False
    """Whether a hub id may be fetched; otherwise it has to be in the Hugging Face cache."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    autoencoder: str | None = None
    """Folder or hub id of another autoencoder for the same latents, such as a small AutoencoderTiny."""
    prompt: str = "a photo of a {category} with {defect}"
    """Text of a defect; {category} and {defect} become learned tokens, everything else stays words."""
    normal_prompt: str = "a photo of a {category}"
    """Text of a normal surface."""
    tokens_per_category: Count = 4
    """Learned vectors per category; with 0 the category is spelled out in words."""
    tokens_per_defect: Count = 8
    """Learned vectors per (category, defect); with 0 the defect is spelled out in words."""
    words: dict[str, str] = Field(default_factory=dict)
    """Words that stand for the name of a category or defect, as spelling and as start of its tokens."""
    farm: Literal["improved", "published"] = "improved"
    """FARM with this project's mendings, or the module of the authors' code, which is for 32×32 latents only."""
    spatial_tokens: Count = 0
    """Further tokens that a small encoder reads off the mask (AnomalyDiffusion's spatial embedding)."""
    masked_loss: bool = False
    """Denoising loss inside the mask alone (AnomalyDiffusion); otherwise over the whole latent (FAST)."""
    token_learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    """Learning rate of the tokens; `training.learning_rate` is that of everything else."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of frozen weights and of the arithmetic; what is trained is kept in fp32. fp16 needs a GPU."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps its state in 8 bits and needs bitsandbytes."""
    gradient_checkpointing: bool = False
    """Compute the UNet's activations twice instead of keeping them: less memory, more time."""
    compile: bool = False
    """torch.compile of the UNet: minutes at the start, faster steps after it."""
    offload: bool = False
    """While sampling on a GPU keep only the part there that is computing."""
    check_memory: bool = True
    """Refuse to start a training that is estimated not to fit."""

    @field_validator("prompt")
    @classmethod
    def _names_the_defect(cls, prompt: str) -> str:
        if "{defect}" not in prompt:
            raise ValueError("the prompt has no {defect}; say where the defect's tokens go")
        return prompt


SAMPLING_KEYS = {"download", "compile", "offload", "check_memory"}
"""Keys that cannot change the trained weights."""
