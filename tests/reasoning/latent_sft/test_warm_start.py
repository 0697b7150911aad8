"""The warm start teaches the encoder the words of the next chunk, and nothing else."""

import torch

from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.samples import Stage1Data, as_samples, decoder_slots
from szilard.reasoning.latent_sft.stages import LatentTraining
from szilard.reasoning.latent_sft.superposition import VocabularySpace
from szilard.reasoning.latent_sft.warm_start import WORDS, WarmStart
from tests.reasoning.latent_sft import tiny


def test_its_loss_is_that_of_the_words_counted_by_hand():
    model, tokenizer = tiny.arithmetic_model(), tiny.tokenizer()
    config = tiny.config(compression_rate=3)
    encoder = LatentTokenEncoder(model.get_decoder(), VocabularySpace(model, "input_embedding", 0), config)
    samples = as_samples(tiny.problems(5), tokenizer, config)
    data = Stage1Data(samples, 3)
    batch = data.collate(samples)
    log_alpha = encoder(batch["encoder_ids"], batch["encoder_role"]).probabilities.log()
    expected, at = [], 0
    for sample in samples:
        cut = [sample.chain[start : start + 3] for start in range(0, len(sample.chain), 3)]
        for words in [*cut[1:], sample.answer[:-1]]:  # the answer without the end
            expected.append(-torch.stack([log_alpha[at, word] for word in words]).mean())
            at += 1
        assert decoder_slots(sample, 3)["role"].count(2) == len(cut)
    found = WarmStart(encoder, len(samples[0].close))(**batch)["loss"]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_it_comes_first_trains_the_encoder_alone_and_is_left_out_by_default(tmp_path):
    for steps, names in (
        (0, ["encoder", "decoder", "both", "chain"]),
        (4, [WORDS, "encoder", "decoder", "both", "chain"]),
    ):
        model = tiny.arithmetic_model()
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        config = tiny.config(warm_start_steps=steps, lora=False)
        with LatentTraining(model, tiny.tokenizer(), tiny.problems(16), [], config, labels=tmp_path) as training:
            stages = training.stages()
            assert [stage.name for stage in stages] == names
            if steps:
                assert stages[0].config.steps == steps
                objective = stages[0].objective()
                batch = stages[0].collate([stages[0].data()[index] for index in range(4)])
                objective(**batch)["loss"].backward()
                assert all(weight.grad is None for weight in model.parameters())
                assert objective.encoder.compress.grad.abs().sum() > 0
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
