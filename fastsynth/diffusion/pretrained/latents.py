"""The autoencoder of a pretrained base as one pair of functions, and a cache of what it and the text encoder made.

B batch, C latent channels, H W picture size, f pixels per latent cell, h = H/f, w = W/f.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from fastsynth.diffusion.pretrained.folders import Autoencoder
from fastsynth.files import atomic_write, sha256_bytes


def cell_size(vae: Autoencoder) -> int:
    """f, the pixels along one side of a latent cell."""
    levels = vae.config.get("encoder_block_out_channels") or vae.config["block_out_channels"]
    return int(2 ** (len(levels) - 1))


def encode(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to (B, C, h, w) at unit scale, float32: the posterior's mean, so that it can be kept."""
    encoded = vae.encode(pictures.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return ((latents.float() - _shift(vae)) * _scale(vae)).contiguous()


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """(B, C, h, w) as `encode` returns them to (B, 3, H, W) in [-1, 1], float32."""
    pictures: Tensor = vae.decode((latents / _scale(vae) + _shift(vae)).to(vae.dtype)).sample
    return pictures.float()


class TensorCache:
    """Tensors by the content they were made from: in memory the latest ones, on disk, if there is a folder, all.

    folder: one file per tensor, named by the hash. limit: how many are kept in memory.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = 256) -> None:
        self.folder, self._limit = folder, limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, content: bytes, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returned, now or earlier, for this content; on the CPU."""
        key = sha256_bytes(content)
        if key not in self._kept:
            self._kept[key] = self._read_or_make(key, make)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read_or_make(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        path = self.folder / f"{key}.safetensors" if self.folder else None
        if path is not None and path.is_file():
            return load_file(path)["value"]
        value = make().detach().cpu().contiguous()
        if path is not None:
            atomic_write(path, save({"value": value}))
        return value


def _scale(vae: Autoencoder) -> float:
    return float(vae.config["scaling_factor"])


def _shift(vae: Autoencoder) -> float:
    return float(vae.config.get("shift_factor") or 0.0)
