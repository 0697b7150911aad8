"""Training LLMLingua-2's classifier: keep or drop, for every token of a text, with both sides of it in view.

Pan et al. 2024 (arXiv 2403.12968), section 4. An encoder with a linear head on every token x_i, all of it trained:

    p_i = softmax(W h_i + b),    L = mean over tokens of CE(p_i, label of the word that x_i is a part of)

Pairs are aligned (`annotation`), the worst left out (`filters`), the rest split 80/20; the epoch with the best accuracy
on the held-out part stays. The result is a stock folder of transformers, a ...ForTokenClassification with the labels
"drop" and "keep".

# Paper: what the released script really does is not what the paper says; here: the paper. The text is tokenised as
# inference sees it (the script: lemmas without commas, word by word). Special tokens and padding have no loss (the
# script: label "drop"), and no label is moved by a special token. Gradients are cut after `backward` (the script:
# before, without effect).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer, TrainerCallback
from transformers.utils import logging

from szilard.compression.llmlingua2.annotation import Annotation, annotate_pairs, lemmas_by_name, token_labels
from szilard.compression.llmlingua2.classifier import positions
from szilard.compression.llmlingua2.filters import filter_pairs
from szilard.compression.llmlingua2.training_config import ClassifierConfig
from szilard.compression.words import as_spans
from szilard.training.course import split
from szilard.training.loop import Batch, fit, read_metrics
from szilard.training.run_folder import check_ours, claim
from szilard.whole_folder import check_folder, held, write_whole

LABELS = {0: "drop", 1: "keep"}
_NO_LOSS = -100  # what cross_entropy passes over
_MADE_FOR = "# szilard training of llmlingua2 from"
_BEST, _VALIDATION = "best.safetensors", "validation.jsonl"
_FOLDERS = ("checkpoints", "tensorboard")
_FILES = (
    *("training.yaml", "metrics.jsonl", "held-out.yaml", _BEST, _VALIDATION),
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
)


class Stretches(Dataset[dict[str, list[int]]]):
    """Annotated texts in an encoder's tokens, in stretches of at most `max_length`, special tokens around each.

    Args:
        annotations: texts with their labels.
        tokenizer: a fast one.
        max_length: tokens, special ones included.
    """

    def __init__(self, annotations: Sequence[Annotation], tokenizer: Any, max_length: int) -> None:
        self.examples: list[dict[str, list[int]]] = []
        for annotation in annotations:
            read = tokenizer(
                annotation.original,
                truncation=True,
                max_length=max_length,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
            )
            for ids, offsets, special in zip(
                read["input_ids"], read["offset_mapping"], read["special_tokens_mask"], strict=True
            ):
                labels = torch.from_numpy(token_labels(annotation, as_spans(offsets)))
                labels[torch.tensor(special, dtype=torch.bool)] = _NO_LOSS
                self.examples.append({"input_ids": ids, "labels": labels.tolist()})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.examples[index]


class Collate:
    """Examples to a batch, padded on the right: int64 [rows, width].

    Args:
        padding: the tokenizer's padding id.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, examples: list[dict[str, list[int]]]) -> Batch:
        def padded(name: str, value: int) -> torch.Tensor:
            rows = [torch.tensor(example[name]) for example in examples]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

        mask = [torch.ones(len(example["input_ids"]), dtype=torch.long) for example in examples]
        return {
            "input_ids": padded("input_ids", self.padding),
            "attention_mask": nn.utils.rnn.pad_sequence(mask, batch_first=True),
            "labels": padded("labels", _NO_LOSS),
        }


class KeepObjective(nn.Module):
    """{"loss" (nats per token), "accuracy"} of a token classifier.

    Args:
        classifier: a ...ForTokenClassification with two labels.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """A batch, int64 [rows, width]; labels are 1, 0, or -100 for what counts as nothing."""
        logits = self.classifier(input_ids=input_ids, attention_mask=attention_mask).logits.float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_NO_LOSS)
        with torch.no_grad():
            counted = labels != _NO_LOSS
            accuracy = (logits.argmax(-1) == labels)[counted].float().mean()
        return {"loss": loss, "accuracy": accuracy}


@torch.no_grad()
def measure(classifier: Any, data: Stretches, collate: Collate, *, batch_size: int = 16) -> dict[str, float]:
    """ "accuracy", and "precision", "recall" and "f1" of "keep", over the tokens of held-out texts."""
    device = next(classifier.parameters()).device
    mode = classifier.training
    classifier.eval()
    order = sorted(range(len(data)), key=lambda index: len(data[index]["input_ids"]))  # little padding
    counts = torch.zeros(4, dtype=torch.long)
    for start in range(0, len(order), batch_size):
        batch = collate([data[index] for index in order[start : start + batch_size]])
        labels = batch.pop("labels")
        logits = classifier(**{name: values.to(device) for name, values in batch.items()}).logits
        said = logits.argmax(-1).cpu()[labels != _NO_LOSS]
        counts += torch.bincount(2 * labels[labels != _NO_LOSS] + said, minlength=4)
    classifier.train(mode)
    right_drop, wrong_keep, wrong_drop, right_keep = counts.double().tolist()
    return {
        "accuracy": (right_drop + right_keep) / max(sum(counts.tolist()), 1),
        "precision": right_keep / max(right_keep + wrong_keep, 1),
        "recall": right_keep / max(right_keep + wrong_drop, 1),
        "f1": 2 * right_keep / max(2 * right_keep + wrong_keep + wrong_drop, 1),
    }


class _BestEpoch(TrainerCallback):
    """Measures at the end of every epoch and keeps the weights of the best one; survives a kill like the loop does."""

    def __init__(self, objective: KeepObjective, data: Stretches, collate: Collate, folder: Path) -> None:
        self.objective, self.data, self.collate, self.folder = objective, data, collate, folder

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero or not len(self.data):
            return
        found = measure(self.objective.classifier, self.data, self.collate)
        file = self.folder / _VALIDATION
        rows = [row for row in read_metrics(file) if row["step"] < state.global_step]  # a resumed run measures again
        if all(found["accuracy"] > row["accuracy"] for row in rows):
            weights = {name: tensor.contiguous() for name, tensor in self.objective.classifier.state_dict().items()}
            save_file(weights, self.folder / f".{_BEST}")
            os.replace(self.folder / f".{_BEST}", self.folder / _BEST)
        rows.append({"step": state.global_step, **found})
        write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def load_tokenizer(model: str) -> Any:
    """The fast tokenizer of an encoder.

    Raises:
        ValueError: there is none, or none that tells where tokens stand in the text.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ValueError(_no_encoder(model, error)) from error
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {model!r} is no fast one with a padding token, which training needs.")
    return tokenizer


def _no_encoder(model: str, error: Exception) -> str:
    return f"no encoder under {model!r} ({' '.join(str(error).split())[:200]}); give a folder or a hub id."


def load_classifier(model: str, seed: int) -> tuple[Any, Any]:
    """An encoder with a head for two labels, and its tokenizer.

    Args:
        model: folder or hub id of any encoder of transformers; a token classifier's own head is kept where it has two
            labels.
        seed: of a new head.

    Raises:
        ValueError: no usable model of that name, or no fast tokenizer.
    """
    tokenizer = load_tokenizer(model)
    spoken = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is no news
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            classifier: Any = AutoModelForTokenClassification.from_pretrained(
                model,
                num_labels=2,
                id2label=LABELS,
                label2id={name: index for index, name in LABELS.items()},
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ValueError(_no_encoder(model, error)) from error
    finally:
        logging.set_verbosity(spoken)
    return classifier, tokenizer


def train_classifier(
    pairs: Sequence[tuple[str, str]],
    model: str,
    config: ClassifierConfig,
    folder: Path,
    *,
    restart: bool = False,
    device: str | None = None,
) -> dict[str, float]:
    """Annotate, filter, fit; write a token classifier that `LlmLingua2` and transformers load. A stopped run goes on.

    Args:
        pairs: (original, compressed).
        model: the encoder, folder or hub id.
        config: the settings.
        folder: gets the classifier with its tokenizer, `training.yaml`, `metrics.jsonl`, `validation.jsonl` (a row per
            epoch), `held-out.yaml` and checkpoints.
        restart: forget an earlier run in the folder.
        device: "cpu" keeps a GPU out of it; None: what there is.

    Returns:
        "accuracy", "precision", "recall" and "f1" of "keep" on the held-out texts with the best epoch's weights (on all
        texts with `held_out` 0), "pairs" (given), "left" (after the filters) and "kept_share" (of words).

    Raises:
        ValueError: no pair, no such encoder, or a folder with another run.
    """
    if not pairs:
        raise ValueError("there is no pair to learn from.")
    check_folder(folder)
    classifier, tokenizer = load_classifier(model, config.seed)
    annotations = annotate_pairs(pairs, window=config.window, lemmas=lemmas_by_name(config.lemmas))
    left = filter_pairs(annotations, variation_share=config.variation_share, gap_share=config.gap_share)
    if not left:
        raise ValueError("the filters leave no pair: these compressed texts are not made of their originals' words.")
    longest = min(config.max_length, positions(classifier.config))
    learned, kept_back = split(range(len(left)), config.held_out, config.seed)
    data = Stretches([left[index] for index in learned], tokenizer, longest)
    asked = Stretches([left[index] for index in kept_back], tokenizer, longest)
    collate = Collate(int(tokenizer.pad_token_id))
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", f"the folder {str(folder)!r}"):
        _claim(model, pairs, config, folder, restart)
        objective = KeepObjective(classifier).train()
        best = _BestEpoch(objective, asked, collate, folder)
        fit(objective, data, config, folder, collate=collate, device=device, callbacks=[best])
        if (folder / _BEST).is_file():
            classifier.load_state_dict(load_file(folder / _BEST))
        metrics = measure(classifier, asked if len(asked) else data, collate)
        words = sum(len(annotation.labels) for annotation in left)
        metrics |= {"pairs": len(pairs), "left": len(left)}
        metrics["kept_share"] = sum(annotation.kept for annotation in left) / words
        write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
        classifier.cpu().eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return metrics


def _claim(model: str, pairs: Sequence[tuple[str, str]], config: ClassifierConfig, folder: Path, restart: bool) -> None:
    """Take the folder for this run, or find that it is this run's."""
    data = hashlib.sha256(json.dumps([list(pair) for pair in pairs]).encode()).hexdigest()[:16]
    text = f"{_MADE_FOR} {Path(model).name}\n# pairs: {data}\n{config.to_yaml()}"
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
    other = "settings or pairs, or of another encoder"
    claim(folder, text, folders=_FOLDERS, files=_FILES, restart=restart, other=other)
