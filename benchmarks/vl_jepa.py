"""VL-JEPA against its token-generative twin on generated scenes: do embeddings as targets learn from fewer samples?

    python benchmarks/vl_jepa.py --part main [--seed 1]            VL-JEPA, five wordings          1 run,   5 minutes
    python benchmarks/vl_jepa.py --part twin [--seed 1]            the twin, five wordings         1 run,   6 minutes
    python benchmarks/vl_jepa.py --part captions [--seed 1]        both, half captions in stage 2  2 runs, 11 minutes
    python benchmarks/vl_jepa.py --part paraphrases [--seed 1]     both with one and two wordings  4 runs, 20 minutes
    python benchmarks/vl_jepa.py --part losses [--seed 1]          losses, multipliers, masks     17 runs, 25 minutes
    python benchmarks/vl_jepa.py --part stream [--seed 1]          clips, selective decoding       1 run,   6 minutes
    python benchmarks/vl_jepa.py --part simulation                 streams of known meanings       2 noises, 2 minutes

Minutes are of one core that is free. 8,000 scenes of one to three shapes, 32 pixels; captions in five wordings, then
questions (what colour, how many, where, how big) with answers in five wordings, or in one; 64 samples a step, AdamW 1e-3.
The vision encoder learns from the pictures alone (a part of each seed's first run) and is frozen for VL-JEPA and twin.
Classification: of 128 captions "a <colour> <shape> in the <place>"; retrieval: R@1 of a caption among 64 scenes; VQA:
the right answer among all of its kind. All on scenes that no training saw, and measured over the samples seen.

A run is recorded when it ends, in results/vl-jepa.jsonl (the simulation: vl-jepa-simulation.jsonl). `--work` keeps checkpoints, the vision encoder and the streams'
embeddings; a killed command goes on with the run it was in.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from safetensors.torch import save_file
from vl_jepa_simulation import REPETITIONS, SIGMAS, simulate

from szilard.information.contrastive import mean_pairwise_cosine
from szilard.representation.vl_jepa.cider import cider
from szilard.representation.vl_jepa.clips import Clip, ClipExamples, Clips, clip_caption
from szilard.representation.vl_jepa.config import VLJEPAConfig
from szilard.representation.vl_jepa.decoder import DecoderCollator, YDecoder, YDecoderObjective
from szilard.representation.vl_jepa.evaluation import (
    classification_accuracy,
    retrieval_recall,
    text_triplets,
    vqa_accuracy,
)
from szilard.representation.vl_jepa.model import VLJEPA
from szilard.representation.vl_jepa.objective import Collator, VLJEPAObjective
from szilard.representation.vl_jepa.ranking import triplet_accuracy
from szilard.representation.vl_jepa.scenes import (
    Example,
    SceneExamples,
    Scenes,
    SceneTexts,
    scene_words,
    word_tokenizer,
)
from szilard.representation.vl_jepa.segments_picture import picture
from szilard.representation.vl_jepa.selective import SelectiveDecoder, matched
from szilard.representation.vl_jepa.text_encoder import TextEncoder
from szilard.representation.vl_jepa.token_twin import TokenTwin, TwinObjective
from szilard.representation.vl_jepa.training import build, build_decoder, pixels_only
from szilard.representation.vl_jepa.vision_encoder import PatchEncoder
from szilard.representation.vl_jepa.vision_pretraining import MaskedPatchObjective
from szilard.training.config import TrainingConfig
from szilard.training.recipe import Stage, run_recipe

STEPS, ABLATION_STEPS, STREAM_STEPS = 600, 400, 400  # of each stage
VISION_STEPS, DECODER_STEPS, EVERY = 400, 300, 100
BASE = VLJEPAConfig(
    width=96, layers=3, text_width=96, text_layers=2, embed_dim=96, vision_width=96, learning_rate=1e-3, log_every=50
)
TWIN_LAYERS = BASE.layers + BASE.text_layers  # as many weights learn as in predictor and Y-Encoder
HELD, SINGLE, GALLERY = 128, 128, 64
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "vl-jepa-segments.svg"
STREAMS, WINDOWS, FRAMES = 6, 120, 4
NOT_SEEN = 1_000_003  # added to the seed of what is measured on


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        model: "vl-jepa" or "twin".
        wordings: of captions and answers.
        changes: of the config.
        head: the Y-Encoder has its linear head.
        stages: "two", captions and then questions, or "mixed", questions with captions among them alone.
        share: of captions among the questions.
    """

    model: str = "vl-jepa"
    wordings: int = 5
    changes: dict[str, Any] = field(default_factory=dict)
    head: bool = True
    stages: str = "two"
    share: float = 0.1

    def key(self, part: str, seed: int) -> dict[str, Any]:
        """Of its record."""
        entries: dict[str, Any] = {"part": part, "model": self.model, "wordings": self.wordings, "seed": seed}
        entries |= self.changes | ({} if self.head else {"head": "none"})
        return entries | ({"captions": self.share} if part == "captions" else {})


def ablation(**changes: Any) -> Run:
    """A run of one stage with changed settings."""
    head = changes.pop("head", True)
    return Run(changes=changes, head=head, stages="mixed", share=0.3)


PARTS: dict[str, list[Run]] = {
    "main": [Run()],
    "twin": [Run("twin")],
    "captions": [Run(name, share=0.5) for name in ("vl-jepa", "twin")],
    "paraphrases": [Run(name, wordings) for wordings in (1, 2) for name in ("vl-jepa", "twin")],
    "losses": [
        *(ablation(y_lr_mult=share) for share in (0.05, 0.0, 0.01, 0.1, 1.0)),
        *(ablation(loss=loss, y_lr_mult=0.0, head=False) for loss in ("info_nce", "cosine", "l1", "l2")),
        *(ablation(loss=loss, y_lr_mult=1.0) for loss in ("cosine", "l1", "l2")),
        *(ablation(duplicates=kind) for kind in ("negatives", "positives")),
        ablation(bidirectional=False),
        ablation(temperature=0.2),
        ablation(batch_size=16),
    ],
    "stream": [Run()],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "simulation"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="runs whose key holds this text")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "szilard-vl-jepa")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part == "simulation":
        simulation(arguments.seed)
        return
    store = Store("vl-jepa")
    for run in PARTS[arguments.part]:
        key = run.key(arguments.part, arguments.seed)
        if key in store or arguments.only not in str(key):
            continue
        folder = arguments.work / "-".join(str(value) for value in key.values())
        measure = streams if arguments.part == "stream" else scenes
        start = time.process_time()
        found = measure(run, arguments.seed, folder, arguments.work)
        store.add(key, found | {"cpu_seconds": round(time.process_time() - start)})
        print(key, {name: value for name, value in found.items() if not isinstance(value, list)}, flush=True)


def simulation(seed: int) -> None:
    """Record both noises."""
    store = Store("vl-jepa-simulation")
    for sigma in SIGMAS:
        key = {"part": "simulation", "sigma": sigma, "repetitions": REPETITIONS, "seed": seed}
        if key not in store:
            store.add(key, {"rows": simulate(sigma, range(seed * REPETITIONS, (seed + 1) * REPETITIONS))})
            print(key, flush=True)


def scenes(run: Run, seed: int, folder: Path, work: Path) -> dict[str, Any]:
    """Train on scenes, and say what came of it, on the way and at the end."""
    config = replace(BASE, seed=seed, **run.changes)
    held = Scenes(HELD, seed=seed + NOT_SEEN, size=config.size)
    single = Scenes(SINGLE, seed=seed + 2 * NOT_SEEN, objects=(1, 1), size=config.size)
    learned = Scenes(config.scenes, seed=seed, size=config.size, avoid=(*held.scenes, *single.scenes))
    texts = SceneTexts(run.wordings)
    steps = STEPS if run.stages == "two" else ABLATION_STEPS
    samples = steps * config.batch_size
    captions = SceneExamples(learned, texts, samples, stage="captions", seed=seed)
    questions = SceneExamples(learned, texts, samples, stage="questions", seed=seed, captions=run.share)
    encoder = vision(config, learned, seed, work)
    model: VLJEPA | TokenTwin
    if run.model == "twin":
        torch.manual_seed(seed)
        twin = model = TokenTwin.from_scratch(
            encoder, word_tokenizer(scene_words()), width=config.width, layers=TWIN_LAYERS, heads=config.heads
        )
        collate: Any = twin.collate

        def objective() -> torch.nn.Module:
            return TwinObjective(twin, weight_decay=config.weight_decay)
    else:
        jepa = model = built(config, encoder, head=run.head)
        collate = Collator(jepa)

        def objective() -> torch.nn.Module:
            return VLJEPAObjective(
                jepa,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                loss=config.loss,
                duplicates=config.duplicates,
            )

    def look(trained: Any) -> dict[str, float]:
        found = {"classification": classification_accuracy(trained.model, single)}
        found["retrieval"] = retrieval_recall(trained.model, held, gallery=GALLERY)
        return found | vqa_accuracy(trained.model, held)

    plan = [("captions", captions, "constant")] if run.stages == "two" else []
    plan += [("questions", questions, "cosine" if run.stages == "two" else "constant")]
    stages = [
        stage(name, objective, data, collate, replace(config, steps=steps, schedule=schedule), look)
        for name, data, schedule in plan
    ]
    results = run_recipe(stages, folder, device="cpu")
    found: dict[str, Any] = {}
    curve, before = [], 0
    for result in results.values():
        for row in result.evaluations[1 if before else 0 :]:
            curve.append([before + row["step"] * config.batch_size, *(round(row[name], 4) for name in CURVES)])
        before += samples
    last = list(results.values())[-1]
    found |= {name: round(value, 4) for name, value in last.evaluations[-1].items() if name != "step"}
    found["loss"] = round(last.metrics[-1]["loss"], 4)
    found["learning_weights"] = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    found["curve"] = curve
    model.eval()
    with torch.no_grad():
        if isinstance(model, VLJEPA):
            found |= embeddings(model, held, texts, seed)
        if run.stages == "two":
            found["cider"] = round(captioned(model, held, captions, questions, config, folder), 3)
    return found


CURVES = ("classification", "retrieval", "vqa")


def stage(
    name: str, objective: Callable[[], Any], data: Any, collate: Any, config: TrainingConfig, look: Any = None
) -> Stage:
    """A stage that is measured every so many steps."""
    return Stage(name, config, objective, lambda: data, collate, None, look, None if look is None else EVERY)


def vision(config: VLJEPAConfig, learned: Any, seed: int, work: Path) -> PatchEncoder:
    """The encoder of a seed, trained on pictures alone; read back where it is there."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = PatchEncoder(config.size, config.patch, config.vision_width, config.vision_layers, config.heads)
        objective = MaskedPatchObjective(encoder)
    pictures = SceneExamples(learned, SceneTexts(), VISION_STEPS * BASE.batch_size, seed=seed)
    settings = replace(BASE, seed=seed, steps=VISION_STEPS)
    run_recipe(
        [stage("vision", lambda: objective, pictures, pixels_only, settings)], work / f"vision-{seed}", device="cpu"
    )
    return encoder


def built(config: VLJEPAConfig, encoder: PatchEncoder, *, head: bool = True) -> VLJEPA:
    """VL-JEPA around an encoder that is there."""
    model = build(config, scene_words())
    text = model.y_encoder
    if not head:
        text = TextEncoder(text.body, embed_dim=config.embed_dim, head=False)
    return VLJEPA(
        encoder,
        model.predictor,
        text,
        query_tokenizer=model.query_tokenizer,
        answer_tokenizer=model.answer_tokenizer,
        y_lr_mult=config.y_lr_mult,
        temperature=model.temperature,
        max_tokens=model.max_tokens,
    )


def embeddings(model: VLJEPA, held: Scenes, texts: SceneTexts, seed: int) -> dict[str, float]:
    """Whether embeddings are still different, and whether wordings lie nearer than other contents."""
    captions = [SceneTexts(1).plain(scene) for scene in held.scenes]
    first, second, other = text_triplets(held, seed=seed)
    triplets = [model.encode_text(one) for one in (first, second, other)]
    return {
        "mean_cosine_of_texts": round(mean_pairwise_cosine(model.encode_text(captions)), 4),
        "mean_cosine_of_pictures": round(mean_pairwise_cosine(model.predict(held.pixels)), 4),
        "triplets": round(triplet_accuracy(*triplets), 4),
        "temperature": round(1 / float(model.temperature()), 4),
    }


def captioned(
    model: VLJEPA | TokenTwin, held: Scenes, captions: Any, questions: Any, config: VLJEPAConfig, folder: Path
) -> float:
    """CIDEr of written captions, against five drawn ones each."""
    if isinstance(model, TokenTwin):
        written = model.write(held.pixels, [""] * len(held))
    else:
        decoder = read_decoder(model, Alternating(captions, questions), config, folder)
        written = decoder.decode(model.predict(held.pixels))
    chance, texts = random.Random("references"), captions.texts
    references = [[texts.caption(scene, chance) for _ in range(5)] for scene in held.scenes]
    return cider(written, references)[0]


class Alternating(torch.utils.data.Dataset[Example]):
    """Two data sets in turn."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts) * min(map(len, self.parts))

    def __getitem__(self, index: int) -> Example:
        return self.parts[index % len(self.parts)][index // len(self.parts)]


def read_decoder(model: VLJEPA, data: Any, config: VLJEPAConfig, folder: Path) -> YDecoder:
    """A Y-Decoder for a trained model."""
    decoder = build_decoder(config, model, scene_words())
    settings = replace(config, steps=DECODER_STEPS, schedule="cosine")
    with torch.enable_grad():
        run_recipe(
            [
                stage(
                    "decoder",
                    lambda: YDecoderObjective(decoder, model, noise=config.decoder_noise),
                    data,
                    DecoderCollator(decoder, model),
                    settings,
                )
            ],
            folder,
            device="cpu",
        )
    return decoder.eval()


def streams(run: Run, seed: int, folder: Path, work: Path) -> dict[str, Any]:
    """Train on windows of clips, embed whole clips, and decode them in several ways and at several rates."""
    config = replace(BASE, seed=seed, **run.changes)
    learned = Scenes(config.scenes, seed=seed, size=config.size)
    windows = ClipExamples(config.scenes // 2, STREAM_STEPS * config.batch_size, frames=FRAMES, seed=seed)
    model = built(config, vision(config, learned, seed, work))

    def objective() -> torch.nn.Module:
        return VLJEPAObjective(model, learning_rate=config.learning_rate, weight_decay=config.weight_decay)

    settings = replace(config, steps=STREAM_STEPS)
    run_recipe([stage("clips", objective, windows, Collator(model), settings)], folder, device="cpu")
    decoder = read_decoder(model, windows, config, folder)
    clips = Clips(STREAMS, windows=WINDOWS, frames=FRAMES, seed=seed + NOT_SEEN)
    drawn = [clips[index] for index in range(STREAMS)]
    with torch.no_grad():
        embedded = [model.predict(clip.windows) for clip in drawn]
    save_file({f"stream_{place}": one for place, one in enumerate(embedded)}, folder / "streams.safetensors")
    found: dict[str, Any] = {"segments": sum(len(clip.changes) for clip in drawn), "windows": STREAMS * WINDOWS}
    if not seed and not run.changes:
        picture_of(drawn[0], embedded[0], decoder)
    found["every_window_right"] = round(_every_window(decoder, embedded, drawn), 4)
    found["rows"] = [row for method in SELECTIVE for row in _selective(method, decoder, embedded, drawn)]
    return found


def picture_of(clip: Clip, stream: torch.Tensor, decoder: YDecoder) -> None:
    """A clip in as many segments as it has, for docs/pictures."""
    decoded = SelectiveDecoder(decoder).run(stream, n_segments=len(clip.changes))
    segments, texts = [one.segment for one in decoded], [one.text for one in decoded]
    drawn = picture(stream, segments, texts=texts, changes=clip.changes[1:], title="A clip, window by window")
    PICTURE.write_text(drawn, encoding="utf-8")


SELECTIVE: dict[str, list[dict[str, Any]]] = {
    "ward": [{"rate": rate, "fps": 1.0} for rate in (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)],
    "uniform": [{"rate": rate, "fps": 1.0} for rate in (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)],
    "random": [{"rate": rate, "fps": 1.0} for rate in (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)],
    "online": [{"threshold": cost, "window": 2} for cost in (0.2, 0.5, 1.0)],
    "cosine": [{"threshold": cosine} for cosine in (0.3, 0.5, 0.7, 0.9)],
}


def _selective(method: str, decoder: YDecoder, embedded: list[Any], drawn: list[Any]) -> list[dict[str, Any]]:
    """CIDEr and exact agreement of annotations with the nearest decoded text, by setting, pooled or not."""
    rows = []
    for settings in SELECTIVE[method]:
        for pool in (True, False):
            pairs, decodings = [], 0
            for stream, clip in zip(embedded, drawn, strict=True):
                decoded = SelectiveDecoder(decoder, method, pool, settings).run(stream)
                decodings += len(decoded)
                pairs += [
                    (text, clip.states[int(time)])
                    for (text, _), (time, _) in zip(matched(clip.annotations, decoded), clip.annotations, strict=True)
                ]
            texts = [text for text, _ in pairs]
            references = [[clip_caption(state, wording) for wording in range(5)] for _, state in pairs]
            right = statistics.fmean(text in said for text, said in zip(texts, references, strict=True))
            score = round(cider(texts, references)[0], 3)
            row = {"method": method, "pool": pool, "decodings": decodings, "cider": score, "right": round(right, 4)}
            rows.append(row | {name: value for name, value in settings.items() if name != "fps"})
    return rows


def _every_window(decoder: YDecoder, embedded: list[Any], drawn: list[Any]) -> float:
    """Share of windows whose decoded text is one of the wordings of what they show."""
    right = [
        text in {clip_caption(state, wording) for wording in range(5)}
        for stream, clip in zip(embedded, drawn, strict=True)
        for text, state in zip(decoder.decode(stream), clip.states, strict=True)
    ]
    return statistics.fmean(right)


if __name__ == "__main__":
    main()
