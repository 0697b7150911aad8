"""Parts of VL-JEPA from stock models, the decoder, and the twin."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from szilard.representation.vl_jepa.decoder import IGNORED, DecoderCollator, YDecoder, YDecoderObjective, with_ends
from szilard.representation.vl_jepa.model import VLJEPA
from szilard.representation.vl_jepa.predictor import VLJEPAPredictor, attention_mask
from szilard.representation.vl_jepa.scenes import Example
from szilard.representation.vl_jepa.text_encoder import TextEncoder
from szilard.representation.vl_jepa.token_twin import TokenTwin, TwinObjective
from szilard.representation.vl_jepa.vision_encoder import PatchEncoder, TransformersVision, vision_from_settings
from szilard.representation.vl_jepa.vision_pretraining import MaskedPatchObjective
from tests.conftest import tiny_model
from tests.representation.vl_jepa.small import encoder, pictures, small, tokenizer

LLAMA_LIKE = ("llama", "qwen2", "qwen3", "gemma3")


@torch.no_grad()
@pytest.mark.parametrize("architecture", LLAMA_LIKE)
def test_the_last_layers_of_a_language_model_predict(architecture: str) -> None:
    source = tiny_model(architecture)
    weights = {name: value.clone() for name, value in source.state_dict().items()}
    torch.manual_seed(0)
    predictor = VLJEPAPredictor.from_causal_lm(source, visual_width=6, layers=slice(1, 3), embed_dim=10).double()
    assert len(predictor.decoder.layers) == predictor.decoder.config.num_hidden_layers == 2
    assert len(source.get_decoder().layers) == source.config.num_hidden_layers == 3
    own = predictor.decoder.layers[0].self_attn.q_proj.weight
    assert torch.equal(own, source.get_decoder().layers[1].self_attn.q_proj.weight)
    visual, ids = torch.randn(2, 4, 6, dtype=torch.float64), torch.tensor([[5, 9, 20], [7, 8, 9]])
    states, _ = predictor.states(visual, ids)
    other, _ = predictor.states(visual, ids.flip(1))
    assert not torch.allclose(states[:, :4], other[:, :4])  # pictures see the question
    padded = torch.cat([ids, torch.zeros_like(ids)], dim=1)
    mask = torch.tensor([1, 1, 1, 0, 0, 0]).expand(2, -1)
    torch.testing.assert_close(predictor(visual, padded, mask), predictor(visual, ids))
    assert not predictor.decoder.get_input_embeddings().weight.requires_grad
    own.zero_()
    for name, value in source.state_dict().items():  # the model it came from stays as it was
        assert torch.equal(value, weights[name])


@torch.no_grad()
def test_with_the_causal_mask_and_all_layers_it_is_the_language_model() -> None:
    source = tiny_model("llama")
    predictor = VLJEPAPredictor.from_causal_lm(
        source, visual_width=32, layers=slice(0, None), embed_dim=4, bidirectional=False
    ).double()
    predictor.visual_map.weight.copy_(torch.eye(32))
    predictor.visual_map.bias.zero_()
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    embedded = source.get_input_embeddings()(ids)
    states, _ = predictor.states(embedded[:, :2], ids[:, 2:])
    torch.testing.assert_close(states, source.get_decoder()(input_ids=ids).last_hidden_state)


def test_the_mask_has_no_triangle_and_hides_padding() -> None:
    valid = torch.tensor([[True, True, False]])
    seen = attention_mask(valid, torch.float32, causal=False)[0, 0] == 0
    assert seen.tolist() == [[True, True, False]] * 3
    causal = attention_mask(valid, torch.float32, causal=True)[0, 0] == 0
    assert causal.tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_a_model_of_stock_parts_is_read_back(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    words = tokenizer()
    vit = ViTModel(
        ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
        ),
        add_pooling_layer=False,
    )
    vision = TransformersVision(vit)
    llama, qwen3 = (copy.deepcopy(tiny_model(name)).float() for name in ("llama", "qwen3"))
    llama.config.dtype = qwen3.config.dtype = "float64"  # as a model that was saved in it says
    predictor = VLJEPAPredictor.from_causal_lm(llama, visual_width=8, layers=slice(1, 3), embed_dim=10)
    text = TextEncoder(qwen3.get_decoder(), embed_dim=10, pooling="last")
    model = VLJEPA(vision, predictor, text, query_tokenizer=words, answer_tokenizer=words).eval()
    model.save_pretrained(tmp_path)
    read = VLJEPA.from_pretrained(tmp_path)
    with torch.no_grad():
        queries = ["how many do you see ?", "where is the heart ?"]
        torch.testing.assert_close(read.predict(pictures(2), queries), model.predict(pictures(2), queries))
        texts = ["red", "a blue heart"]
        torch.testing.assert_close(read.encode_text(texts), model.encode_text(texts))


@torch.no_grad()
def test_a_stock_vision_model_is_given_its_size_and_colours() -> None:
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(vision_config=part | {"image_size": 16, "patch_size": 8}, text_config=part)).eval()
    vision = TransformersVision(clip, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    pixels = pictures(2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)))
    known = clip.vision_model(pixel_values=(pixels / 255 - mean) / std).last_hidden_state
    torch.testing.assert_close(vision(pixels), known)
    assert vision(pictures(2, size=24)).shape == known.shape
    frames = torch.stack([pixels, pixels.flip(0)], dim=1)
    torch.testing.assert_close(vision(frames), torch.cat([known, known.flip(0)], dim=1))


@torch.no_grad()
def test_the_colours_that_a_processor_notes_are_taken(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTModel(ViTConfig(**shape, image_size=16, patch_size=8)).save_pretrained(tmp_path)
    assert TransformersVision.from_pretrained(str(tmp_path)).mean == (0.485, 0.456, 0.406)
    noted = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(noted), encoding="utf-8")
    read = TransformersVision.from_pretrained(str(tmp_path))
    assert (read.mean, read.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)) and read(pictures(1)).shape == (1, 5, 8)


@torch.no_grad()
def test_a_picture_is_repeated_to_fill_a_video_models_clip() -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    config = VJEPA2Config(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=1.0,
        crop_size=16,
        patch_size=8,
        frames_per_clip=4,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    model = VJEPA2Model(config).eval()
    vision = TransformersVision(model, frames=4)
    assert (vision.width, vision.size, vision.video) == (24, 16, True)
    ran: list[int] = []
    model.predictor.register_forward_hook(lambda *_: ran.append(1))
    picture = vision(pictures(2))
    assert picture.shape == (2, 2 * 4, 24) and not ran  # its own predictor is not needed
    torch.testing.assert_close(picture, vision(pictures(2).unsqueeze(1).expand(-1, 4, -1, -1, -1)))
    assert vision(pictures(10).unflatten(0, (2, 5))).shape == (2, 3 * 4, 24)  # the fifth frame is not dropped
    read = vision_from_settings(vision.settings)
    read.load_state_dict(vision.state_dict())
    torch.testing.assert_close(read.eval()(pictures(2)), picture)


@torch.no_grad()
def test_patches_are_cut_row_by_row_and_frames_stand_in_a_row() -> None:
    model, pixels = encoder().eval(), pictures(2) / 255.0
    cut = model.patches(pixels)
    assert torch.equal(cut[0, 1], pixels[0, :, :8, 8:].flatten() * 2 - 1)
    frames = torch.stack([pixels, pixels.flip(0)], dim=1)
    torch.testing.assert_close(model(frames)[:, 4:], model(pixels.flip(0)))
    torch.testing.assert_close(model((pixels * 255).to(torch.uint8)), model(pixels))


def test_hidden_patches_are_rebuilt() -> None:
    torch.manual_seed(0)
    objective = MaskedPatchObjective(encoder(), hidden=0.5)
    pixels = torch.zeros(8, 3, 16, 16)
    pixels[::2] = 0.8
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        found = objective(pixels)
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["hidden_error"]))
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


@pytest.fixture
def decoder() -> YDecoder:
    torch.manual_seed(1)
    return YDecoder.from_scratch(tokenizer(), embed_dim=12, width=16, layers=1, heads=2, prefix=2, max_new_tokens=8)


def test_a_decoder_learns_to_read_the_text_encoder(decoder: YDecoder, tmp_path: Path) -> None:
    model = small()
    texts = ["it is red", "two", "a small blue heart", "in the top left"]
    examples = [Example(one, "", text) for one, text in zip(pictures(4), texts, strict=True)]
    objective = YDecoderObjective(decoder, model, noise=0.1).train()
    assert not any(name.startswith("model.") for name, _ in objective.named_parameters())
    batch = DecoderCollator(decoder, model)(examples)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(**batch)["loss"]
        loss.backward()
        optimizer.step()
    decoder.eval()
    with torch.no_grad():
        embeddings = model.encode_text(texts)
    assert decoder.decode(embeddings) == texts
    assert decoder.decode(embeddings * 50) == texts and decoder.decode(embeddings[:0]) == []
    decoder.save_pretrained(tmp_path)
    assert YDecoder.from_pretrained(tmp_path).decode(embeddings) == texts


@torch.no_grad()
def test_a_decoders_loss_is_the_cross_entropy_of_its_text_and_its_end(decoder: YDecoder) -> None:
    ids, mask = with_ends(decoder.tokenizer, ["it is red", "two"], 64)
    end = decoder.tokenizer.eos_token_id
    assert mask.sum(1).tolist() == [4, 2] and ids[0, 3] == end and ids[1, 1] == end
    embeddings = torch.randn(2, 12)
    total = 0.0
    for row in range(2):
        own = ids[row : row + 1, : int(mask[row].sum())]
        before = decoder.prefix_vectors(embeddings[row : row + 1])
        inputs = torch.cat([before, decoder.language_model.get_input_embeddings()(own)], dim=1)
        logits = decoder.language_model(inputs_embeds=inputs).logits[0, 1:-1].log_softmax(-1)
        total -= float(logits.gather(1, own[0].unsqueeze(1)).sum())
    assert float(decoder(embeddings, ids, mask)) == pytest.approx(total / 6, rel=1e-5)
    with pytest.raises(ValueError, match=r"embeddings must be \[n, 12\]"):
        decoder.decode(torch.randn(2, 5))


@pytest.fixture
def twin() -> TokenTwin:
    torch.manual_seed(0)
    return TokenTwin.from_scratch(encoder(), tokenizer(), width=16, layers=1, heads=2).eval()


@torch.no_grad()
def test_the_twin_scores_candidates_by_their_likelihood(twin: TokenTwin) -> None:
    pixels, queries = pictures(2), ["what colour is the heart ?", "how many do you see ?"]
    candidates = ["red", "it is blue", "two"]
    scores = twin.score(pixels, queries, candidates)
    for row, query in enumerate(queries):
        for place, text in enumerate(candidates):
            batch = twin.collate([Example(pixels[row], query, text)])
            tokens = int((batch["labels"] != IGNORED).sum())
            assert float(scores[row, place]) == pytest.approx(-float(twin(**batch)["loss"]) * tokens, abs=1e-4)


def test_the_twin_learns_writes_and_is_read_back(twin: TokenTwin, tmp_path: Path) -> None:
    pixels, queries = pictures(3), ["", "how many do you see ?", "what colour is the heart ?"]
    answers = ["a red heart", "two", "it is blue"]
    examples = [Example(*row) for row in zip(pixels, queries, answers, strict=True)]
    objective = TwinObjective(twin).train()
    batch = twin.collate(examples)
    optimizer = torch.optim.Adam([weight for weight in twin.parameters() if weight.requires_grad], 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        objective(**batch)["loss"].backward()
        optimizer.step()
    twin.eval()
    assert twin.write(pixels, queries) == answers  # questions of different lengths, padded in the middle
    twin.save_pretrained(tmp_path)
    read = TokenTwin.from_pretrained(tmp_path)
    assert read.write(pixels, queries) == answers


def test_bad_parts_are_said() -> None:
    with pytest.raises(ValueError, match="no layers with rotary positions"):
        VLJEPAPredictor.from_causal_lm(tiny_model("gpt2"), visual_width=4, layers=slice(0, 1))
    with pytest.raises(ValueError, match="take some of 0:3"):
        VLJEPAPredictor.from_causal_lm(tiny_model("llama"), visual_width=4)
    with pytest.raises(ValueError, match="must divide width=10 into even parts"):
        VLJEPAPredictor.from_scratch(9, 0, visual_width=4, width=10, heads=2)
    with pytest.raises(ValueError, match="must divide size=20"):
        PatchEncoder(20, 8)
    with pytest.raises(ValueError, match="without a head embed_dim must be"):
        TextEncoder(tiny_model("llama").get_decoder(), embed_dim=5, head=False)
    with pytest.raises(ValueError, match="pooling"):
        TextEncoder(tiny_model("llama").get_decoder(), embed_dim=5, pooling="max")
    words = tokenizer()
    words.eos_token = None
    for made in (lambda: YDecoder(None, words, embed_dim=4), lambda: TokenTwin(encoder(), None, words, visual_width=4)):
        with pytest.raises(ValueError, match="end token"):
            made()
    words.pad_token = None
    one = small()
    with pytest.raises(ValueError, match="without a pad token"):
        VLJEPA(one.x_encoder, one.predictor, one.y_encoder, query_tokenizer=words)
