"""Which layers of a model should select anew for TidalDecode: those under which a hidden number is still found.

Yang et al. 2024, arXiv 2410.05076, choose the layer once per model, on needle tests with a small budget. Here:

1. A needle prompt is a stretch of a text with a seven-digit number hidden in it, and a question for the number. The
   stretch is read densely; the question and the answer are read sparsely, as if they were generated.
2. The score of a set of layers is the mean log-probability of the number's tokens, in nats (ours: the paper counts the
   numbers that are found, which tells little on few prompts).
3. Every layer above the first selecting one is tried alone, and the best stays; then every other one beside it, and so
   on, until there are as many as wanted (ours: the paper uses one).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from szilard.attention.tidal_decode import TidalDecode, TidalSession
from szilard.engines.model_parts import weights_fingerprint
from szilard.options import check_number

_SHORTEST = 32  # tokens of a stretch
_NEEDLE = " The secret number is {}. Remember it: {} is the secret number."
_QUESTION = "\n\nQuestion: What is the secret number?\nAnswer: The secret number is"


@dataclass(frozen=True)
class NeedlePrompt:
    """A number hidden in a text, and the question for it, in tokens.

    Attributes:
        context: the text with the needle.
        question: what is asked.
        answer: the number.
        scored: which tokens of the answer tell something of the number.
    """

    context: list[int]
    question: list[int]
    answer: list[int]
    scored: list[bool]


def needle_prompts(text: str, tokenizer: Any, *, count: int, length: int, seed: int = 0) -> list[NeedlePrompt]:
    """Needle prompts made from a text; the needles lie at evenly spaced depths.

    Args:
        text: the haystack.
        tokenizer: of the model.
        count: prompts.
        length: tokens of a context, needle included.
        seed: of the stretches and the numbers.

    Raises:
        ValueError: the text is too short.
    """
    encode = lambda part: list(tokenizer.encode(part, add_special_tokens=False))  # noqa: E731
    hay, start = encode(text), [tokenizer.bos_token_id] if getattr(tokenizer, "bos_token_id", None) is not None else []
    if len(hay) < length:
        raise ValueError(
            f"the text has {len(hay)} tokens, fewer than a prompt of {length}: give more, or ask for less."
        )
    draw, question, prompts = random.Random(seed), encode(_QUESTION), []
    for number in range(count):
        secret = str(draw.randrange(10**6, 10**7))
        needle, answer = encode(_NEEDLE.format(secret, secret)), encode(f" {secret}")
        around = max(1, length - len(needle) - len(start))
        place = draw.randrange(len(hay) - around + 1)
        stretch = hay[place : place + around]
        depth = round((number + 0.5) / count * around)
        digits = [any(sign.isdigit() for sign in tokenizer.decode([token])) for token in answer]
        scored = digits if any(digits) else [True] * len(answer)
        prompts.append(NeedlePrompt([*start, *stretch[:depth], *needle, *stretch[depth:]], question, answer, scored))
    return prompts


@torch.no_grad()
def answer_score(model: Any, prompt: NeedlePrompt, cache: Any, method: TidalDecode) -> float:
    """Mean log-probability of the number's tokens, nats, with question and answer read as `method` reads.

    Args:
        model: a transformers model.
        prompt: what is asked.
        cache: holds the prompt's context, and does so again afterwards.
        method: the settings.
    """
    held = cache.get_seq_length()
    fed = torch.tensor([prompt.question + prompt.answer[:-1]], device=model.device)
    cache.activate_past_recording()
    with method(model):
        logits = model(fed, past_key_values=cache).logits[0, len(prompt.question) - 1 :]
    cache.crop(held - cache.get_seq_length())
    aim = torch.tensor(prompt.answer, device=logits.device)
    found = logits.float().log_softmax(-1).gather(1, aim[:, None])[:, 0]
    return float(found[torch.tensor(prompt.scored, device=found.device)].mean())


@torch.no_grad()
def calibrate(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    method: TidalDecode | None = None,
    layers: int = 1,
    prompts: int = 8,
    length: int = 1024,
    seed: int = 0,
    journal: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Find the layers that should select anew, by needle prompts.

    Args:
        model: a decoder-only model of transformers.
        tokenizer: its tokenizer.
        text: prose that the needles are hidden in.
        method: the other settings; its `reselect_layers` are not looked at. None: a budget of 64.
        layers: how many to find.
        prompts: needle prompts.
        length: tokens of a prompt's text.
        seed: of the prompts.
        journal: file that keeps every score as soon as it is known, so that a killed run goes on; None: none.
        progress: called with (scores known, scores in all).

    Returns:
        The plan: "settings" for `TidalDecode`, "model" and "fingerprint", and what it came from: "budget", "score",
        "full" and "without" (mean scores under the plan, under full attention, and with no layer that selects anew),
        and "stages", the scores by layer of every round.

    Raises:
        ValueError: the text is too short or the prompts too long for the model, more layers than there are, a budget
            that holds the whole prompt, or a journal of another calibration.
    """
    method = replace(method or TidalDecode(budget=64), reselect_layers=(), correct_every=None)
    for name, value in (("layers", layers), ("prompts", prompts)):
        check_number(name, value, low=1, integer=True)
    check_number("length", length, low=_SHORTEST, integer=True)
    check_number("seed", seed, low=0, integer=True)
    if method.budget is None or method.budget >= length:
        raise ValueError(f"a calibration needs a budget below its length of {length} tokens, not {method.budget}.")
    candidates = candidate_layers(method.session(model))
    if len(candidates) < layers:
        raise ValueError(
            f"{type(model).__name__} has {len(candidates)} layers that could select anew above dense_layers="
            f"{method.dense_layers}, not {layers}."
        )
    asked = needle_prompts(text, tokenizer, count=prompts, length=length, seed=seed)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(one.context) + len(one.question) + len(one.answer) for one in asked)
    if window and longest > window:
        raise ValueError(f"prompts of {longest} tokens do not fit into the model's {window} positions: ask for less.")
    identity = {
        "fingerprint": weights_fingerprint(model),
        "settings": {name: value for name, value in method.options().items() if name in _KEPT}
        | {"budget": method.budget},
        "prompts": prompts,
        "length": length,
        "seed": seed,
        "text": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
    known = Journal(journal, identity)
    total = prompts * (2 + sum(len(candidates) - stage for stage in range(layers)))
    chosen: tuple[int, ...] = ()
    stages: list[dict[str, Any]] = []
    means: dict[str, float] = {}
    done = 0
    for stage in range(layers):
        tried = {
            layer: replace(method, reselect_layers=(*chosen, layer)) for layer in candidates if layer not in chosen
        }
        rivals: dict[str, TidalDecode] = {str(layer): one for layer, one in tried.items()}
        if not stage:
            rivals |= {"full": TidalDecode.neutral(), "without": method}
        sums = dict.fromkeys(rivals, 0.0)
        for index, prompt in enumerate(asked):
            for name, score in _scores(model, prompt, rivals, known, f"{index}/{'+'.join(map(str, chosen))}"):
                sums[name] += score / prompts
                done += 1
                if progress is not None:
                    progress(done, total)
        means |= {name: sums[name] for name in ("full", "without") if name in sums}
        best = max(tried, key=lambda layer: sums[str(layer)])
        chosen = tuple(sorted((*chosen, best)))
        scores = {str(layer): round(sums[str(layer)], 4) for layer in tried}
        stages.append({"chosen": best, "scores": scores})
        means["score"] = sums[str(best)]
    settings = {name: getattr(method, name) for name in _KEPT} | {"reselect_layers": list(chosen)}
    return {
        "method": TidalDecode.slug,
        "model": model.name_or_path or type(model).__name__,
        "settings": settings,
        "budget": method.budget,
        **{name: round(value, 4) for name, value in means.items()},
        "stages": stages,
        **{name: value for name, value in identity.items() if name != "settings"},
    }


_KEPT = ("dense_layers", "per", "keep_current", "sinks", "recent")  # settings that go with the layers


def candidate_layers(session: TidalSession) -> list[int]:
    """Layers above the first selecting one that keep every token."""
    return [index for index, full in enumerate(session.full) if full and index > session.selects[0]]


def _scores(
    model: Any, prompt: NeedlePrompt, rivals: dict[str, TidalDecode], known: Journal, about: str
) -> Iterator[tuple[str, float]]:
    """The score of every setting; the prompt is read once for those that are not known."""
    cache = None
    for name, method in rivals.items():
        score = known.get(f"{about}/{name}")
        if score is None:
            if cache is None:
                cache = DynamicCache(config=model.get_decoder().config)
                model(torch.tensor([prompt.context], device=model.device), past_key_values=cache, logits_to_keep=1)
            score = answer_score(model, prompt, cache, method)
            known.add(f"{about}/{name}", score)
        yield name, score


class Journal:
    """Scores that are known, a line each; the first line says of what.

    Args:
        path: the file; None: nothing is kept.
        identity: what the scores depend on.

    Raises:
        ValueError: the file belongs to another calibration.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        if path is None:
            return
        identity = json.loads(json.dumps(identity))
        lines: list[Any] = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:  # cut off when the run was killed
                    continue
        if lines and lines[0] != {"of": identity}:
            raise ValueError(
                f"{str(path)!r} holds scores of another model, text or setting: delete it, or write to another file."
            )
        self.known = {line["try"]: line["score"] for line in lines[1:]}
        if not lines:
            path.write_text(json.dumps({"of": identity}) + "\n", encoding="utf-8")
        elif not path.read_bytes().endswith(b"\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def get(self, name: str) -> float | None:
        """A score, if it is known."""
        return self.known.get(name)

    def add(self, name: str, score: float) -> None:
        """Keep a score; it is on disk before this returns."""
        self.known[name] = score
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"try": name, "score": score}) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read_haystack(path: Path, *, length: int) -> str:
    """The text of a file.

    Raises:
        ValueError: no such file, no UTF-8 text, or certainly too short for prompts of `length` tokens.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no UTF-8 text ({error}).") from None
    if len(text.strip()) < length:
        raise ValueError(
            f"{str(path)!r} has {len(text.strip())} characters, too few for prompts of {length} tokens: give a longer "
            "text, or ask for a smaller length."
        )
    return text


def read_plan(path: Path) -> dict[str, Any]:
    """A plan that `szilard train tidal-decode` wrote.

    Raises:
        ValueError: no such file, or another kind of file.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["method"] != TidalDecode.slug or not isinstance(plan["settings"], dict):
            raise KeyError("method")
    except OSError:
        raise ValueError(f"there is no plan {str(path)!r}: write it with `szilard train tidal-decode`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{str(path)!r} is no plan of `szilard train tidal-decode`.") from None
    return plan
