"""What latent reasoning refuses, and which labels it does not take for its own."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.generate import latent_generate
from szilard.reasoning.latent_sft.labels import weights_digest
from szilard.reasoning.latent_sft.method import LatentSFT
from szilard.reasoning.tasks import number_tokenizer


def _untied(vocab: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )


def test_a_delimiter_that_the_tokenizer_lacks_is_refused() -> None:
    tokenizer = number_tokenizer(5)
    with pytest.raises(ValueError, match="think_close='</nothing>' is not in this tokenizer"):
        latent_generate(_untied(len(tokenizer)), tokenizer, "1 + 2 =", method=LatentSFT(think_close="</nothing>"))


@pytest.mark.parametrize(("readout", "counts"), [("lm_head", True), ("input_embedding", False)])
def test_labels_depend_on_the_head_that_they_are_read_out_with(readout: str, counts: bool) -> None:
    model = _untied(20)
    encoder = LatentTokenEncoder.from_pretrained(model, LatentSFTConfig(readout=readout))
    before = weights_digest(encoder)
    with torch.no_grad():
        model.lm_head.weight += 1
    assert (weights_digest(encoder) != before) is counts
