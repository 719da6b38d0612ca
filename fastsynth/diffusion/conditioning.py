"""Learned tokens that tell the denoiser and FARM which defect of which product to draw.

Textual inversion without the text (AnomalyDiffusion, Hu et al. 2024): every (category, defect) pair owns k free
vectors. Each category also owns an entry for its normal surface, so that one model can train on normals and inpaint
them. B batch, k tokens, D token length.
"""

import difflib
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

NORMAL = "good"
"""Defect name of a normal surface (the word MVTec uses)."""


class DefectTokens(ModelMixin, ConfigMixin):
    """k tokens per (category, defect) pair, and per (category, "good").

    Args:
        pairs: known [category, defect] pairs, each once; their order is their index. The normal entries follow them
            in the order the categories first appear, unless listed already.
        num_tokens: k.
        cross_attention_dim: D.

    Raises ValueError if `pairs` is empty, repeats itself or holds something other than two names.
    """

    @register_to_config
    def __init__(self, pairs: Sequence[Sequence[str]], num_tokens: int = 8, cross_attention_dim: int = 256) -> None:
        super().__init__()
        self.entries = known_entries(pairs)
        self.tokens = nn.Parameter(torch.empty(len(self.entries), num_tokens, cross_attention_dim))
        self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw all tokens anew from N(0, I), as `nn.Embedding` does: far enough apart for attention to tell them."""
        self.tokens.copy_(torch.randn(self.tokens.shape, generator=generator, device=generator.device))

    def index(self, category: str, defect: str) -> int:
        """Row of a pair. Raises ValueError that names the closest known pair, or all of them."""
        return row_of(self.entries, category, defect)

    def normal(self, indices: Tensor) -> Tensor:
        """(B,) rows of the normal surfaces of the categories of these rows."""
        rows = [self.index(self.entries[row][0], NORMAL) for row in indices.tolist()]
        return torch.tensor(rows, device=indices.device)

    def forward(self, indices: Tensor) -> Tensor:
        """(B, k, D) tokens for cross-attention, from (B,) int64 rows as `index` returns them."""
        return self.tokens[indices]

    def pooled(self, indices: Tensor) -> Tensor:
        """(B, D), the mean token: the class embedding of FARM."""
        return self.tokens[indices].mean(dim=1)


def known_entries(pairs: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs, then (category, "good") of every category that has none yet.

    Raises ValueError if `pairs` is empty, repeats itself or holds something other than two names.
    """
    known = [(pair[0], pair[-1]) for pair in pairs if len(pair) == 2]
    if not known or len(set(known)) != len(pairs):
        raise ValueError(f"pairs are {list(pairs)}; pass each [category, defect] once, at least one")
    normals = dict.fromkeys((category, NORMAL) for category, _ in known)
    return [*known, *(pair for pair in normals if pair not in known)]


def row_of(entries: Sequence[tuple[str, str]], category: str, defect: str) -> int:
    """Place of a pair among the entries. Raises ValueError that names the closest known pair, or all of them."""
    if (category, defect) in entries:
        return entries.index((category, defect))
    names = ["/".join(pair) for pair in entries]
    close = difflib.get_close_matches(f"{category}/{defect}", names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known pairs: {', '.join(names)}"
    raise ValueError(f"the model was not trained on {category}/{defect}; {hint}")
