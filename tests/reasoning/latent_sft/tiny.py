"""What the tests of Latent-SFT share: a small arithmetic model, its problems, and settings that take seconds."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.tasks import arithmetic_chains, number_tokenizer

MODULUS = 5


def tokenizer():
    return number_tokenizer(MODULUS - 1)


def arithmetic_model(seed=0, tied=True):
    tok = tokenizer()
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=tok.pad_token_id,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def problems(count, seed=0):
    return arithmetic_chains(count, seed=seed, steps=(1, 2), modulus=MODULUS)


def config(**settings):
    quick = {
        "steps": 6,
        "stage_1_steps": 4,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "learning_rate": 3e-3,
        "stage_1_learning_rate": 3e-3,
        "save_every": 2,
        "log_every": 1,
        "rank": 4,
        "top_k": 3,
        "held_out": 0.2,
        "evaluations": 2,
        "max_latent_steps": 8,
        "max_answer_tokens": 3,
    }
    return LatentSFTConfig(**(quick | settings))
