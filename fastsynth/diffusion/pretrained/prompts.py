"""Textual inversion: learned vectors in the place of words, in a prompt that is otherwise plain text.

"a photo of a {category} with {defect}": each category owns k_c vectors, each (category, defect) pair k_d, which take
the place of words among the embedded tokens before the frozen text encoder adds positions (AnomalyDiffusion, Hu et
al. 2024; Gal et al. 2022). They start from the embeddings of the words themselves.
B batch, L length of a prompt in tokens, D width of a token, N learned vectors in all.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import save
from torch import Tensor, nn

from fastsynth.diffusion.conditioning import NORMAL, known_entries, row_of
from fastsynth.files import atomic_write, write_json

PLACEHOLDER = re.compile(r"(\{category\}|\{defect\})")
PLAIN = -1
"""Slot of a token that is an ordinary word."""


class Prompt(NamedTuple):
    """ids: (…, L) int64 of the tokenizer. slots: (…, L) int64, row of the learned vector there, or PLAIN."""

    ids: Tensor
    slots: Tensor


class PromptTokens(ModelMixin, ConfigMixin):
    """Learned vectors for the words of prompts, and the prompts.

    Args:
        pairs: known [category, defect] pairs, each once; (category, "good") entries follow them.
        prompt, normal_prompt: texts with {category} and {defect} where the vectors go.
        tokens_per_category, tokens_per_defect: k_c, k_d; with 0 the words themselves stand there.
        cross_attention_dim: D.
        words: words for a name of a category or defect; without an entry the name's own, underscores as spaces.

    Raises ValueError if `pairs` is empty or repeats itself.
    """

    @register_to_config
    def __init__(
        self,
        pairs: Sequence[Sequence[str]],
        prompt: str = "a photo of a {category} with {defect}",
        normal_prompt: str = "a photo of a {category}",
        tokens_per_category: int = 4,
        tokens_per_defect: int = 8,
        cross_attention_dim: int = 768,
        words: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.entries = known_entries(pairs)
        self.categories = list(dict.fromkeys(category for category, _ in self.entries))
        self.defects = [entry for entry in self.entries if entry[1] != NORMAL]
        count = len(self.categories) * tokens_per_category + len(self.defects) * tokens_per_defect
        # one spare row: parameters without an element upset optimisers and distributed training
        self.vectors = nn.Parameter(torch.zeros(max(count, 1), cross_attention_dim))

    def index(self, category: str, defect: str) -> int:
        """Row of a pair. Raises ValueError that names the closest known pair, or all of them."""
        return row_of(self.entries, category, defect)

    @property
    def learned(self) -> bool:
        """Whether there is any vector to learn."""
        return bool(self.config["tokens_per_category"] or self.config["tokens_per_defect"])

    def pooled(self, rows: Tensor) -> Tensor:
        """(B, D), the mean of an entry's vectors: the class embedding of FARM. rows: (B,)."""
        means = [self.vectors[self._slots_of(entry)].mean(dim=0) for entry in self.entries]
        return torch.stack(means)[rows]

    @torch.no_grad()
    def start_from_words(self, tokenizer: Any, embeddings: nn.Embedding) -> None:
        """Each vector becomes the embedding of a token of its name's words, all of them in turn."""
        for name, slots in self._named_slots():
            ids = torch.tensor(_token_ids(tokenizer, self._words(name)), device=embeddings.weight.device)
            embedded = embeddings(ids).float().cpu()
            for i, slot in enumerate(slots):
                self.vectors[slot] = embedded[i % len(embedded)]

    def text(self, row: int) -> str:
        """The prompt with the names of learned tokens, as typed in diffusers: "<tile> with <tile+crack>"."""
        category, defect = self.entries[row]
        names = {
            "{category}": f"<{category}>" if self.config["tokens_per_category"] else self._words(category),
            "{defect}": f"<{category}+{defect}>" if self.config["tokens_per_defect"] else self._words(defect),
        }
        return "".join(names.get(piece, piece) for piece in PLACEHOLDER.split(self._template(row)))

    def compose(self, row: int, tokenizer: Any, *, length: int) -> Prompt:
        """The prompt of an entry as (L,) ids and slots: start, words and vectors, end, padding to `length`.

        Raises ValueError if it does not fit.
        """
        category, defect = self.entries[row]
        ids: list[int] = []
        slots: list[int] = []
        for piece in PLACEHOLDER.split(self._template(row)):
            name = {"{category}": category, "{defect}": defect}.get(piece)
            own = [] if name is None else self._range(category, defect if piece == "{defect}" else None)
            tokens = [0] * len(own) if own else _token_ids(tokenizer, piece if name is None else self._words(name))
            ids += tokens
            slots += own or [PLAIN] * len(tokens)
        start, end = _start_and_end(tokenizer)
        if len(ids) + 2 > length:
            raise ValueError(
                f"the prompt of {category}/{defect} has {len(ids) + 2} tokens, the text encoder takes {length}; "
                "shorten base.prompt or lower base.tokens_per_defect"
            )
        padding = length - len(ids) - 2
        return Prompt(
            torch.tensor([start, *ids, end, *[tokenizer.pad_token_id] * padding]),
            torch.tensor([PLAIN, *slots, PLAIN, *[PLAIN] * padding]),
        )

    def save_learned_embeds(self, folder: Path) -> None:
        """One file per learned token, as `StableDiffusionPipeline.load_textual_inversion` reads them, and prompts.json
        with the texts to use them in."""
        for category in self.categories:
            self._save_embed(folder, f"<{category}>", self._range(category, None))
        for category, defect in self.defects:
            self._save_embed(folder, f"<{category}+{defect}>", self._range(category, defect))
        write_json(folder / "prompts.json", {"/".join(e): self.text(i) for i, e in enumerate(self.entries)})

    def _save_embed(self, folder: Path, token: str, slots: Sequence[int]) -> None:
        if slots:
            vectors = self.vectors[list(slots)].detach().float().cpu().contiguous()
            atomic_write(folder / f"{token.strip('<>').replace('/', '-')}.safetensors", save({token: vectors}))

    def _template(self, row: int) -> str:
        normal = self.entries[row][1] == NORMAL
        return str(self.config["normal_prompt" if normal else "prompt"])

    def _words(self, name: str) -> str:
        return str((self.config["words"] or {}).get(name, name.replace("_", " ").replace("-", " ")))

    def _range(self, category: str, defect: str | None) -> list[int]:
        """Rows of the vectors of a category, or with `defect` of a pair; a normal surface owns none."""
        of_category, of_defect = self.config["tokens_per_category"], self.config["tokens_per_defect"]
        if defect is None:
            first = self.categories.index(category) * of_category
            return list(range(first, first + of_category))
        if (category, defect) not in self.defects:
            return []
        first = len(self.categories) * of_category + self.defects.index((category, defect)) * of_defect
        return list(range(first, first + of_defect))

    def _slots_of(self, entry: tuple[str, str]) -> list[int]:
        return self._range(entry[0], None) + self._range(*entry) or [0]

    def _named_slots(self) -> list[tuple[str, list[int]]]:
        categories = [(category, self._range(category, None)) for category in self.categories]
        return categories + [(defect, self._range(category, defect)) for category, defect in self.defects]


def embed_prompts(text_encoder: Any, prompts: Prompt, vectors: Tensor) -> Tensor:
    """(B, L, D) context for cross-attention, differentiable with respect to `vectors` (N, D); ids and slots (B, L)."""

    def splice(_module: nn.Module, _arguments: Any, embedded: Tensor) -> Tensor:
        learned = vectors.to(embedded)[prompts.slots.clamp(min=0)]
        return torch.where(prompts.slots[..., None] == PLAIN, embedded, learned)

    # a hook for the length of one call: the encoder is saved, moved and shared as the plain one it is
    handle = text_encoder.get_input_embeddings().register_forward_hook(splice)
    try:
        context: Tensor = text_encoder(prompts.ids)[0]
    finally:
        handle.remove()
    return context


def empty_prompt(tokenizer: Any, *, length: int) -> Prompt:
    """(L,): the prompt of no words, for guidance."""
    ids = torch.tensor([*_start_and_end(tokenizer), *[tokenizer.pad_token_id] * (length - 2)])
    return Prompt(ids, torch.full_like(ids, PLAIN))


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text.strip() else []


def _start_and_end(tokenizer: Any) -> tuple[int, int]:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return int(start), int(end)
