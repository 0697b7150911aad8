"""Held-out accuracy, hallucination and entropy of `tiny-vlm`, written into its card.

    python -m szilard_zoo.evaluate_tiny_vlm zoo/szilard_zoo/tiny-vlm --write-card

Decoding is greedy, through plain `model.generate`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from szilard_zoo import path, scenes
from szilard_zoo.scenes import Sample

TRANSITION_WORDS = ("so", "but", "however", "wait", "because", "therefore", "thus")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CARD_SAMPLES = 10  # replies shown in the card


@dataclass
class Replies:
    """What the model said to some questions.

    Attributes:
        texts: one reply per question, with its thinking markers.
        lengths: tokens of each reply, the end of sequence included.
        finished: whether each reply ended by itself.
        transition_entropy: next-token entropy (nats) at each step of the chain where a transition word was chosen.
        other_entropy: the same at every other step of the chain.
        seconds: time spent in `generate`.
    """

    texts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    transition_entropy: list[float] = field(default_factory=list)
    other_entropy: list[float] = field(default_factory=list)
    seconds: float = 0.0


@torch.no_grad()
def reply(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    samples: Sequence[Sample],
    *,
    batch_size: int = 64,
    pictures: Sequence[scenes.Scene] | None = None,
) -> Replies:
    """Answer questions greedily.

    Args:
        model: a checkpoint of this architecture.
        processor: its processor.
        samples: the questions.
        batch_size: questions per call of `generate`.
        pictures: scenes to show instead of the samples' own.
    """
    replies = Replies()
    end = processor.tokenizer.eos_token_id
    closing = processor.tokenizer.convert_tokens_to_ids("</think>")
    transitions = set(processor.tokenizer.convert_tokens_to_ids(list(TRANSITION_WORDS)))
    shown = [sample if pictures is None else replace(sample, scene=pictures[i]) for i, sample in enumerate(samples)]
    for start in range(0, len(shown), batch_size):
        inputs = processor.apply_chat_template(
            [sample.messages() for sample in shown[start : start + batch_size]],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        began = time.monotonic()
        output = model.generate(**inputs, do_sample=False, output_logits=True, return_dict_in_generate=True)
        replies.seconds += time.monotonic() - began
        said = output.sequences[:, inputs["input_ids"].shape[1] :]  # [questions, steps]
        log_p = torch.stack(output.logits, dim=1).float().log_softmax(-1)  # [questions, steps, vocabulary]
        entropy = -(log_p.exp() * log_p).sum(-1)  # [questions, steps]
        for tokens, steps in zip(said.tolist(), entropy.tolist(), strict=True):
            finished = end in tokens
            tokens = tokens[: tokens.index(end) + 1] if finished else tokens
            replies.texts.append(processor.decode([token for token in tokens if token != end]))
            replies.lengths.append(len(tokens))
            replies.finished.append(finished)
            thinking = tokens.index(closing) if closing in tokens else len(tokens)
            for token, nats in zip(tokens[:thinking], steps[:thinking], strict=True):
                (replies.transition_entropy if token in transitions else replies.other_entropy).append(nats)
    return replies


def accuracy_by_kind(samples: Sequence[Sample], texts: Sequence[str]) -> dict[str, float]:
    """Share of correct replies for each kind of question, and "overall" for all of them."""
    kinds = [kind for kind in scenes.QUESTION_KINDS if any(sample.kind == kind for sample in samples)]
    right = [(sample.kind, scenes.is_correct(sample, text)) for sample, text in zip(samples, texts, strict=True)]
    result = {}
    for kind in kinds:
        chosen = [correct for name, correct in right if name == kind]
        result[kind] = sum(chosen) / len(chosen)
    result["overall"] = sum(correct for _, correct in right) / len(right)
    return result


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def report(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    questions: int = 1500,
    polled: int = 900,
    seed: int = 0,
) -> str:
    """Measure everything and return it as Markdown.

    Args:
        model: the checkpoint.
        processor: its processor.
        questions: held-out questions of all kinds in turn.
        polled: held-out existence questions, a third per POPE subset; asked twice, with and without the prior.
        seed: of the held-out questions.
    """
    own = list(scenes.dataset("heldout", questions, seed))
    shifted = list(scenes.dataset("heldout", questions, seed, prior=0.0))
    existence = {
        name: list(scenes.dataset("heldout", polled, seed + 1, prior=prior, kinds=("existence",)))
        for name, prior in (("", scenes.PRIOR), (", prior broken", 0.0))
    }
    other_pictures = [sample.scene for sample in own[7:] + own[:7]]  # 7: not a multiple of the number of kinds

    plain = reply(model, processor, own)
    swapped = reply(model, processor, own, pictures=other_pictures)
    without_prior = reply(model, processor, shifted)
    polls = {name: reply(model, processor, asked) for name, asked in existence.items()}

    rows = [accuracy_by_kind(own, plain.texts), accuracy_by_kind(shifted, without_prior.texts)]
    rows.append(accuracy_by_kind(own, swapped.texts))
    names = ("held-out", "held-out, colours uniform (prior broken)", "held-out, with the picture of another question")
    lines = [
        f"Greedy decoding, {questions} held-out questions (seed {seed}, kinds in turn), {polled} polled. "
        f"Standard error: at most {_percent(0.5 / questions**0.5)} overall, "
        f"{_percent(0.5 / (questions / len(scenes.QUESTION_KINDS)) ** 0.5)} for one kind.",
        "",
        f"| accuracy | {' | '.join(rows[0])} |",
        f"|---|{'---|' * len(rows[0])}",
        *(
            f"| {name} | {' | '.join(_percent(value) for value in row.values())} |"
            for name, row in zip(names, rows, strict=True)
        ),
        "",
        "| hallucination (CHAIR) | mentions | false per mention (CHAIR_i) | texts with a false one (CHAIR_s) |",
        "|---|---|---|---|",
    ]
    captions = [index for index, sample in enumerate(own) if sample.kind == "caption"]
    parts = {
        "all replies": (own, plain.texts),
        "captions": ([own[i] for i in captions], [plain.texts[i] for i in captions]),
        "all replies, prior broken": (shifted, without_prior.texts),
    }
    for name, (samples, texts) in parts.items():
        found = scenes.chair(samples, texts)
        lines.append(f"| {name} | {found.mentions} | {_percent(found.per_mention)} | {_percent(found.per_text)} |")
    lines += [
        "",
        "| existence (POPE) | accuracy | precision | recall | F1 | says yes |",
        "|---|---|---|---|---|---|",
    ]
    for name, asked in existence.items():
        for subset, poll in scenes.pope(asked, polls[name].texts).items():
            values = (poll.accuracy, poll.precision, poll.recall, poll.f1, poll.yes_rate)
            lines.append(f"| {subset}{name} | {' | '.join(_percent(value) for value in values)} |")
    lines += [
        "",
        "| chain of thought | |",
        "|---|---|",
        f"| tokens per reply, mean (longest) | {_mean(plain.lengths):.1f} ({max(plain.lengths)}) |",
        f"| replies that end by themselves | {_percent(_mean(plain.finished))} |",
        f"| next-token entropy at transition words ({len(plain.transition_entropy)}) "
        f"| {_mean(plain.transition_entropy):.3f} nats |",
        f"| at the other steps of the chain ({len(plain.other_entropy)}) | {_mean(plain.other_entropy):.3f} nats |",
        f"| `generate`, batches of 64 | {sum(plain.lengths) / plain.seconds:,.0f} tokens/s |",
        "",
        f"The first {CARD_SAMPLES} held-out replies:",
        "",
        "```",
    ]
    for sample, text in list(zip(own, plain.texts, strict=True))[:CARD_SAMPLES]:
        verdict = "right" if scenes.is_correct(sample, text) else f"wrong, expected: {sample.answer}"
        lines += [f"user:      {sample.question}", f"assistant: {text}", f"           ({verdict})"]
    lines.append("```")
    return "\n".join(lines)


def write_card(folder: Path, measured: str) -> None:
    """Put the numbers between the two markers of the card.

    Raises:
        ValueError: the card has no place for them.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    place = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"{card} has no {BEGIN} ... {END}; add the two lines where the numbers belong")
    card.write_text(place.sub(lambda _: f"{BEGIN}\n{measured}\n{END}", text), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(
        prog="python -m szilard_zoo.evaluate_tiny_vlm", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, nargs="?", help="checkpoint (default: the one in this package)")
    parser.add_argument("--questions", type=int, default=1500, help="of all kinds (default: %(default)s)")
    parser.add_argument("--polled", type=int, default=900, help="existence questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out questions (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    parser.add_argument("--write-card", action="store_true", help="write the numbers into the README.md of the folder")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    folder = given.folder or path("tiny-vlm")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    measured = report(model, processor, questions=given.questions, polled=given.polled, seed=given.seed)
    print(measured)
    if given.write_card:
        write_card(folder, measured)


if __name__ == "__main__":
    main()
