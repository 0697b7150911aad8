"""Training a simplified GPT-2 from scratch on texts, with the entropy regulariser, through the one loop.

What is written is a folder that `szilard.load` reads: the model, its tokenizer, and what it reaches on held-out text.
A run that was killed goes on from its last checkpoint, exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerFast

from szilard.engines.loading import check_device, find
from szilard.options import check_number
from szilard.sessions.head_entropies import HeadEntropyReport, measured
from szilard.training.corpus import Example, as_example, digest, read_texts
from szilard.training.course import split
from szilard.training.entropy_guided_attention.config import CHARACTERS, EntropyGuidedConfig
from szilard.training.entropy_guided_attention.objective import EntropyGuidedObjective
from szilard.training.entropy_guided_attention.simplified import simplified
from szilard.training.loop import Batch, uses_fsdp
from szilard.training.model_folder import write_model
from szilard.training.recipe import Stage, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, write_whole

_MADE_FOR = "# szilard training of a simplified GPT-2"
_FOLDERS = ("train",)
_FILES = ("training.yaml", "held-out.yaml", "config.json", "model.safetensors")
_UNKNOWN, _END = "<unk>", "<eos>"


def character_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for every character of some texts, one for the end and one for all other characters."""
    known = [_UNKNOWN, _END, *sorted(set().union(*texts))]
    backend = Tokenizer(models.WordLevel({text: index for index, text in enumerate(known)}, unk_token=_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=_UNKNOWN,
        eos_token=_END,
        pad_token=_END,
        clean_up_tokenization_spaces=False,
    )


class Pieces(Dataset[Batch]):
    """Pieces of one length of texts that stand one behind the other, each with an end behind it.

    Args:
        texts: token ids.
        length: T, tokens.
        end: token behind every text; None: nothing.

    Attributes:
        ids: int64 [pieces, T].

    Raises:
        ValueError: fewer tokens than one piece has.
    """

    def __init__(self, texts: Sequence[Sequence[int]], length: int, end: int | None) -> None:
        flat = torch.tensor([token for text in texts for token in (*text, *([] if end is None else [end]))])
        if len(flat) < length:
            raise ValueError(
                f"{len(flat)} tokens are too few for a piece of {length}: give more texts, or less context."
            )
        self.ids = flat[: len(flat) // length * length].long().view(-1, length)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Batch:
        """{"ids" int64 [T]}."""
        return {"ids": self.ids[index]}

    @staticmethod
    def collate(rows: list[Batch]) -> Batch:
        """{"ids" int64 [batch, T]}."""
        return {"ids": torch.stack([row["ids"] for row in rows])}


def train_softmax_only(
    data: Path,
    config: EntropyGuidedConfig,
    folder: Path,
    *,
    limit: int | None = None,
    restart: bool = False,
    device: str | None = None,
) -> dict[str, float]:
    """Train a simplified GPT-2 from scratch; a stopped run goes on.

    Args:
        data: texts, as `read_corpus` takes them (a .txt: paragraphs).
        config: the settings.
        folder: gets the model, its tokenizer, `training.yaml`, `held-out.yaml`, and `train/` with the loop's files.
        limit: only the first so many texts.
        restart: forget an earlier run in the folder.
        device: "cpu" keeps a GPU out of it; None: what there is.

    Returns:
        On held-out text: "nats" per token, "perplexity", "near_uniform" and "near_zero" (shares of heads), "entropy".

    Raises:
        ValueError: unusable data, no such tokenizer or device, or a folder with another run.
    """
    check_number("limit", limit, low=1, integer=True, optional=True)
    if device is not None:
        check_device(device)
    if uses_fsdp():
        raise ValueError("the entropies are of whole layers, which FSDP would take apart: train with DDP.")
    records = read_texts(data)[:limit]
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES))
    tokenizer = _tokenizer(config.tokenizer, records)
    known = _vocabulary(tokenizer)
    examples = [_example(record, tokenizer, known, data) for record in records]
    chosen, kept = split(list(range(len(examples))), config.held_out, config.seed)
    if not kept:
        raise ValueError("a single text leaves nothing to measure on: give two texts at least (a .txt: paragraphs).")
    end = tokenizer.eos_token_id
    learned = Pieces([examples[index].ids for index in chosen], config.context, end)
    measured_on = Pieces([examples[index].ids for index in kept], config.context, end)
    words = hashlib.sha256(repr(sorted(tokenizer.get_vocab())).encode()).hexdigest()[:16]  # ids alone are no text
    text = f"{_MADE_FOR}\n# data: {digest(examples)} {words}\n{config.to_yaml()}"
    other = "settings or data"
    with own_run(
        folder, text, folders=_FOLDERS, files=_FILES, restart=restart, other=other, device=device
    ) as processes:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model: Any = simplified(shape(config, tokenizer), config.simplification)
        regularizer = config.regularizer
        stage = Stage(
            name="train",
            config=config,
            objective=lambda: EntropyGuidedObjective(
                model,
                regularizer,
                learning_rate=config.learning_rate,
                threshold_rate=config.learning_rate if config.threshold_rate is None else config.threshold_rate,
                weight_decay=config.weight_decay,
            ),
            data=lambda: learned,
            collate=Pieces.collate,
            evaluate=lambda objective: measure(objective, measured_on, config.batch_size),
            evaluate_every=config.evaluate_every,
        )
        result = run_recipe([stage], folder, device=device)["train"]
        metrics = {name: value for name, value in result.evaluations[-1].items() if name != "step"}
        if processes.is_main_process:
            write_whole(folder / "held-out.yaml", yaml.safe_dump(metrics))
            write_model(model, tokenizer, folder)
    return metrics


def shape(config: EntropyGuidedConfig, tokenizer: Any) -> GPT2Config:
    """The stock GPT-2 that is simplified; without dropout, as small models on much text have it."""
    return GPT2Config(
        vocab_size=_vocabulary(tokenizer),
        n_layer=config.layers,
        n_head=config.heads,
        n_embd=config.width,
        n_positions=config.context,
        initializer_range=config.initializer_range,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )


def measure(objective: nn.Module, data: Pieces, batch_size: int) -> dict[str, float]:
    """Cross entropy of held-out pieces, and the entropies of the heads on the first batches of them."""
    model: Any = objective.model
    total = 0.0
    with torch.no_grad():
        for ids in data.ids.split(batch_size):
            total += float(objective(ids=ids.to(model.device))["loss"]) * len(ids)
    report = head_report(model, data, batch_size)
    nats = total / len(data)
    found = {"nats": nats, "perplexity": math.exp(min(nats, 700.0))}
    shares = {"near_uniform": report.near_uniform, "near_zero": report.near_zero}
    return found | shares | {"entropy": sum(report.layers) / len(report.layers)}


def head_report(model: Any, data: Pieces, batch_size: int, batches: int = 4) -> HeadEntropyReport:
    """The entropies of the heads on some batches."""
    chosen = data.ids[: batches * batch_size].split(batch_size)
    return measured(model, ({"input_ids": ids.to(model.device)} for ids in chosen))


def _tokenizer(name: str, records: Sequence[dict[str, Any]]) -> Any:
    if name == CHARACTERS:
        texts = [
            text for record in records for text in (record.get("text"), record.get("prompt"), record.get("answer"))
        ]
        found = [text for text in texts if isinstance(text, str)]
        if not found:
            raise ValueError("characters are those of texts, and the records hold none: name a model's tokenizer.")
        return character_tokenizer(found)
    path, hub = find(name)
    try:
        return AutoTokenizer.from_pretrained(str(path) if path is not None else hub)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ValueError(f"no usable tokenizer under {name!r}: {' '.join(str(error).split())[:300]}") from error


def _vocabulary(tokenizer: Any) -> int:
    """Token ids are below it; a vocabulary may have gaps."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))


def _example(record: dict[str, Any], tokenizer: Any, known: int, data: Path) -> Example:
    if record.get("image") or record.get("images"):
        raise ValueError(f"{str(data)!r} holds a record with pictures, of which a language model learns nothing.")
    example = as_example(record, tokenizer)
    if example is None or not example.ids:
        raise ValueError(f"{str(data)!r} holds a record without text.")
    if max(example.ids) >= known:
        raise ValueError(f"{str(data)!r} holds the token id {max(example.ids)}, and the tokenizer knows {known}.")
    return example
