"""Learned tokens: spliced into the prompt exactly where diffusers would put them, and readable by diffusers."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from pretrained_bases import LENGTH, WIDTH, save_base

from fastsynth.diffusion.pretrained.folders import load_base
from fastsynth.diffusion.pretrained.prompts import Prompt, PromptTokens, embed_prompts, empty_prompt

PAIRS = [["tile", "crack"], ["tile", "dent"], ["nut", "crack"]]


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("sd"), "sd")


@pytest.fixture(scope="module")
def base(sd):
    return load_base(sd, dtype=torch.float32)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_base(save_base(tmp_path_factory.mktemp("ldm"), "ldm"), dtype=torch.float32)


def tokens_of(**changes) -> PromptTokens:
    counts = {"tokens_per_category": 2, "tokens_per_defect": 3}
    return PromptTokens(PAIRS, prompt="a {category} with {defect}", cross_attention_dim=WIDTH, **(counts | changes))


def embedded(tokens: PromptTokens, base, row: int) -> torch.Tensor:
    prompt = tokens.compose(row, base.tokenizer, length=LENGTH)
    with torch.no_grad():
        return embed_prompts(base.text_encoder, Prompt(prompt.ids[None], prompt.slots[None]), tokens.vectors)


class TestSplicing:
    @pytest.mark.parametrize("kind", ["base", "bert"])
    def test_a_prompt_of_plain_words_has_the_tokenizer_s_own_ids(self, kind, request):
        base = request.getfixturevalue(kind)
        tokens = tokens_of(tokens_per_category=0, tokens_per_defect=0)
        found = tokens.compose(tokens.index("nut", "crack"), base.tokenizer, length=LENGTH)
        wanted = base.tokenizer("a nut with crack", padding="max_length", max_length=LENGTH).input_ids
        assert found.ids.tolist() == wanted
        empty = base.tokenizer("", padding="max_length", max_length=LENGTH).input_ids
        assert empty_prompt(base.tokenizer, length=LENGTH).ids.tolist() == empty

    @pytest.mark.parametrize("kind", ["base", "bert"])
    def test_vectors_that_are_words_give_what_the_words_give(self, kind, request):
        """As many vectors as the words have tokens start as the words themselves."""
        base = request.getfixturevalue(kind)
        counts = [len(base.tokenizer(word, add_special_tokens=False).input_ids) for word in ("tile", "dent")]
        learned = tokens_of(tokens_per_category=counts[0], tokens_per_defect=counts[1])
        learned.start_from_words(base.tokenizer, base.text_encoder.get_input_embeddings())
        plain = tokens_of(tokens_per_category=0, tokens_per_defect=0)
        row = learned.index("tile", "dent")
        torch.testing.assert_close(embedded(learned, base, row), embedded(plain, base, row))

    def test_gradients_reach_the_prompt_s_own_vectors_alone(self, base):
        tokens = tokens_of()
        prompt = tokens.compose(1, base.tokenizer, length=LENGTH)
        context = embed_prompts(base.text_encoder, Prompt(prompt.ids[None], prompt.slots[None]), tokens.vectors)
        context.square().sum().backward()
        touched = tokens.vectors.grad.abs().sum(dim=1) > 0
        own = set(prompt.slots[prompt.slots >= 0].tolist())
        assert len(own) == 5
        assert set(touched.nonzero().flatten().tolist()) == own

    def test_the_encoder_is_a_plain_one_again_afterwards(self, base):
        ids = torch.tensor([base.tokenizer("a nut", padding="max_length", max_length=LENGTH).input_ids])
        with torch.no_grad():
            before = base.text_encoder(ids)[0]
            embedded(tokens_of(), base, 0)
            torch.testing.assert_close(base.text_encoder(ids)[0], before, atol=0, rtol=0)


class TestNames:
    def test_a_normal_surface_has_the_category_s_vectors_only(self):
        tokens = tokens_of()
        assert tokens.entries[3:] == [("tile", "good"), ("nut", "good")]
        normal = tokens.pooled(torch.tensor([tokens.index("nut", "good")]))
        torch.testing.assert_close(normal[0], tokens.vectors[2:4].mean(dim=0))

    def test_other_words_may_stand_for_a_name(self, base):
        tokens = tokens_of(tokens_per_category=0, tokens_per_defect=0, words={"nut": "steel hex nut"})
        assert tokens.text(tokens.index("nut", "crack")) == "a steel hex nut with crack"

    def test_a_prompt_that_does_not_fit_says_so(self, base):
        with pytest.raises(ValueError, match=f"has .* tokens, the text encoder takes {LENGTH}; shorten base.prompt"):
            tokens_of(tokens_per_defect=60).compose(0, base.tokenizer, length=LENGTH)


def test_diffusers_own_pipeline_loads_the_tokens_and_embeds_the_prompt_alike(sd, base, tmp_path):
    tokens = tokens_of()
    with torch.no_grad():
        tokens.vectors.normal_(generator=torch.Generator().manual_seed(1))
    tokens.save_learned_embeds(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(sd, local_files_only=True)
    for path in sorted(tmp_path.glob("*.safetensors")):
        pipeline.load_textual_inversion(str(path.parent), weight_name=path.name)
    texts = json.loads((tmp_path / "prompts.json").read_text())
    assert texts["tile/dent"] == "a <tile> with <tile+dent>"
    for row, entry in enumerate(tokens.entries):
        theirs, _ = pipeline.encode_prompt(texts["/".join(entry)], "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(embedded(tokens, base, row), theirs, atol=1e-5, rtol=1e-4)
