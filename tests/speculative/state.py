"""A decoding state on a tiny model, for tests that write the loop themselves."""

from szilard.engines import TransformersEngine
from tests.conftest import tiny_tokenizer


def open_state(model, inputs, **options):
    """A state on padded prompts; nothing ends it before 60 new tokens."""
    engine = TransformersEngine(model, tiny_tokenizer(), name="tiny")
    prompts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    return engine.state(prompts, max_new_tokens=60, eos_token_id=-1, **options)
