"""LLMLingua-2 here and as released: the same kept words on the same checkpoints, and words per second in one run.

    python benchmarks/llmlingua2_peer.py --data FOLDER [--checkpoint FOLDER ...] [--part agreement|speed|onnx] [--fixture]

FOLDER of --data holds gsm8k_test.jsonl, spec_bench.jsonl, mbpp.jsonl, TruthfulQA.csv and wikitext2_test.txt. Without
--checkpoint two tiny random classifiers are made (WordPiece and Unigram vocabularies of --data's text); a folder given is
a BERT or XLM-RoBERTa encoder, with or without a classification head (one is drawn). Needs the released package
(llmlingua 0.2.2) and a cl100k_base file in $TIKTOKEN_CACHE_DIR. Lines go to results/llmlingua2-peer.jsonl; a stopped
run goes on where it was. --fixture writes what the tests compare with.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiktoken
import torch
from results_store import Store
from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

from szilard.compression.llmlingua2.classifier import KeepClassifier
from szilard.compression.llmlingua2.method import LlmLingua2

TESTS = Path(__file__).parent.parent / "tests"
FIXTURE = TESTS / "data" / "llmlingua2_peer.json.gz"
NAMES = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}  # by which the peer knows families
TEXT_MARKS = ["\n", "?", "!", "."]
MATHS = ["+", "-", "*", "×", "/", "÷", "=", "The answer is", "\n"]
GRID: dict[str, dict[str, Any]] = {
    "rate 0.5": {},
    "rate 0.2": {"rate": 0.2},
    "rate 0.33": {"rate": 0.33},
    "rate 0.75": {"rate": 0.75},
    "rate 1": {"rate": 1.0},
    "first token": {"rate": 0.33, "token_to_word": "first"},
    "text marks": {"rate": 0.33, "force_tokens": TEXT_MARKS},
    "text marks once": {"rate": 0.33, "force_tokens": TEXT_MARKS, "drop_consecutive": True},
    "maths": {"rate": 0.4, "force_tokens": MATHS, "force_reserve_digit": True},
    "maths once": {"rate": 0.2, "force_tokens": MATHS, "force_reserve_digit": True, "drop_consecutive": True},
    "digits, first token": {"rate": 0.5, "force_reserve_digit": True, "token_to_word": "first"},
    "40 tokens": {"target_token": 40},
    "chunks end at commas": {"rate": 0.5, "chunk_end_tokens": [","]},
    "no words dropped": {"use_token_level_filter": False},
}
CONTEXTS: dict[str, dict[str, Any]] = {  # of several texts each
    "contexts": {},
    "contexts, 100 tokens": {"target_token": 100, "force_tokens": TEXT_MARKS},
    "contexts, two of them": {"target_context": 2, "rate": 0.6},
    "contexts, half of them": {"context_level_rate": 0.5, "rate": 0.6, "force_context_ids": [0]},
    "contexts, only whole ones": {"rate": 0.5, "use_token_level_filter": False},
    "contexts, all": {"use_context_level_filter": False, "rate": 0.33, "drop_consecutive": True, "force_tokens": MATHS},
}
LONG = 6000  # words of a long input
REPEATS = 3


def prompts(data: Path) -> list[str]:
    """240 prompts: sums, instructions, code, questions with their answers, and encyclopaedia text, short and long."""

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]

    found = [f"{item['question']}\n{item['answer']}" for item in lines("gsm8k_test.jsonl")[:60]]
    found += [item["turns"][0] for item in lines("spec_bench.jsonl")[::8]]
    found += [f"{item['text']}\n\n{item['code']}" for item in lines("mbpp.jsonl")[:40]]
    with (data / "TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[:30]
    found += [f"{row['Question']} {row['Correct Answers']}" for row in rows]
    paragraphs = wikitext(data)
    found += paragraphs[:40] + ["\n".join(paragraphs[at : at + 12]) for at in range(40, 160, 12)]
    return found


def wikitext(data: Path) -> list[str]:
    text = (data / "wikitext2_test.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if len(line.split()) > 20]


def tiny_checkpoints(data: Path, folder: Path) -> list[Path]:
    """Random classifiers with vocabularies of 8,000 pieces of the prompts, named as the peer wants them."""
    texts = [text for prompt in prompts(data) for text in prompt.splitlines()] + wikitext(data)[:800]
    made = []
    for family, make in (("bert", _wordpiece), ("xlm-roberta", _unigram)):
        tokenizer = make(texts)
        shape: dict[str, Any] = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        }
        shape |= {"vocab_size": len(tokenizer), "num_labels": 2, "pad_token_id": tokenizer.pad_token_id}
        config: Any = BertConfig(max_position_embeddings=512, **shape)
        if family == "xlm-roberta":
            config = XLMRobertaConfig(max_position_embeddings=514, type_vocab_size=1, **shape)
        path = folder / f"tiny-{NAMES[family]}"
        torch.manual_seed(3)
        model = AutoModelForTokenClassification.from_config(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.mul_(8 if "classifier" in name else 10)  # so that probabilities spread, and none is 1
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        made.append(path)
    return made


def with_head(encoder: Path, folder: Path) -> Path:
    """An encoder's weights with a classification head drawn under a seed, named as the peer wants it."""
    config = AutoConfig.from_pretrained(encoder, num_labels=2)
    path = folder / f"{encoder.name}-{NAMES['xlm-roberta' if config.model_type == 'xlm-roberta' else 'bert']}"
    torch.manual_seed(3)
    model = AutoModelForTokenClassification.from_pretrained(encoder, config=config, dtype=torch.float32)
    if not any("ForTokenClassification" in name for name in AutoConfig.from_pretrained(encoder).architectures or ()):
        torch.nn.init.normal_(model.classifier.weight, std=0.2)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(path)
    return path


def agreement(store: Store, name: str, peer: Any, ours: LlmLingua2, texts: list[str], chosen: list[str]) -> None:
    """How many prompts give the same result in every field, and how many the same words."""
    groups = [texts[at : at + 4] for at in range(0, len(texts), 4)]
    for options, inputs, settings in (
        *((label, texts, given) for label, given in GRID.items()),
        *((label, groups, given) for label, given in CONTEXTS.items()),
    ):
        key = {"part": "agreement", "checkpoint": name, "options": options, "inputs": len(inputs)}
        if key in store or options not in chosen:
            continue
        counts: Counter[str] = Counter()
        for text in track(inputs, description=f"{name}: {options}"):
            theirs = _result(peer.compress_prompt, text, settings)
            own = _result(ours.compress_prompt, text, settings)
            if isinstance(theirs, str) or isinstance(own, str):
                counts[
                    f"peer: {theirs}; here: {own}" if isinstance(own, str) else f"peer: {theirs}; here a result"
                ] += 1
                continue
            counts["same result"] += theirs == own
            label = "fn_labeled_original_prompt"
            counts["same words"] += theirs[label] == own[label]
            if theirs[label] != own[label]:
                pairs = zip(theirs[label].split("\t\t|\t\t"), own[label].split("\t\t|\t\t"), strict=False)
                counts["words that differ"] += sum(a != b for a, b in pairs)
            counts["words"] += theirs[label].count("\t\t|\t\t") + 1
        store.add(key, dict(counts))


def recovery(store: Store, name: str, peer: Any, ours: LlmLingua2, texts: list[str]) -> None:
    """Whether a response that quotes the compressed prompt, with words of its own between is recovered alike."""
    key = {"part": "agreement", "checkpoint": name, "options": "recover", "inputs": len(texts)}
    if key in store:
        return
    same = 0
    for text in track(texts, description=f"{name}: recover"):
        short = ours.compress_prompt(text, rate=0.5)["compressed_prompt"]
        response = " ".join(word if index % 7 else "so" for index, word in enumerate(short.split()[:60]))
        same += peer.recover(text, short, response) == ours.recover(text, short, response)
    store.add(key, {"same result": same})


def _result(call: Callable[..., Any], text: Any, settings: dict[str, Any]) -> Any:
    given = {name: list(value) if isinstance(value, list) else value for name, value in settings.items()}
    try:
        return call(list(text) if isinstance(text, list) else text, return_word_label=True, **given)
    except Exception as error:  # the peer's own: what it cannot do is part of what is compared
        return type(error).__name__


def speed(
    store: Store, name: str, peer: Any, classifier: KeepClassifier, cl100k: Callable[[str], int], data: Path, onnx: bool
) -> None:
    """Processor seconds (one thread) on a long text, on a list of contexts and on short prompts, in turns; medians."""
    paragraphs = iter(wikitext(data))
    text = ""
    while len(text.split()) < LONG:
        text += next(paragraphs) + "\n"
    contexts = [line for line in text.splitlines() if line]
    short = prompts(data)[:40]
    compat = LlmLingua2.released(classifier, cl100k)
    own = {
        "llmlingua2": LlmLingua2(checkpoint=classifier),
        "llmlingua2, bfloat16": LlmLingua2(checkpoint=classifier, precision="bfloat16"),
    }
    if onnx:
        own["llmlingua2, onnx"] = LlmLingua2(checkpoint=classifier, backend="onnx")
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "one long text": {
            label: lambda m=m: m.compress_prompt(text, rate=0.33) for label, m in (("peer", peer), ("compat", compat))
        },
        "a list of contexts": {
            label: lambda m=m: m.compress_prompt(list(contexts), rate=0.5)
            for label, m in (("peer", peer), ("compat", compat))
        },
        "short prompts": {
            label: lambda m=m: [m.compress_prompt(one, rate=0.33) for one in short]
            for label, m in (("peer", peer), ("compat", compat))
        },
    }
    for label, m in own.items():
        runs["one long text"][label] = lambda m=m: m.compress([text], 0.33)
        chosen = dataclasses.replace(m, context_rate=0.75)
        runs["a list of contexts"][label] = lambda m=chosen: m.compress(contexts, 0.375)
        runs["short prompts"][label] = lambda m=m: m.compress(short, 0.33)
    for inputs, contestants in runs.items():
        words = sum(len(one.split()) for one in (short if inputs == "short prompts" else contexts))
        key = {
            "part": "speed",
            "checkpoint": name,
            "inputs": inputs,
            "words": words,
            "contestants": sorted(contestants),
        }
        if key in store:
            continue
        seconds: dict[str, list[float]] = {label: [] for label in contestants}
        for _ in range(REPEATS + 1):
            for label, call in contestants.items():
                started = time.process_time()
                call()
                seconds[label].append(time.process_time() - started)
        medians = {label: statistics.median(values[1:]) for label, values in seconds.items()}  # the first warms up
        store.add(
            key,
            {
                "processor_seconds": {label: round(value, 4) for label, value in medians.items()},
                "words_per_second": {label: round(words / value) for label, value in medians.items()},
                "times_as_fast": {label: round(medians["peer"] / value, 2) for label, value in medians.items()},
            },
        )


def onnx_parity(store: Store, name: str, classifier: KeepClassifier, texts: Sequence[str]) -> None:
    """Largest difference of a probability between ONNX Runtime and PyTorch."""
    key = {"part": "onnx", "checkpoint": name, "inputs": len(texts)}
    if key in store:
        return
    found = {}
    for backend in ("torch", "onnx"):
        method = LlmLingua2(checkpoint=classifier, backend=backend, selection="threshold", threshold=0.5)
        found[backend] = method.compress(list(texts))
    pairs = list(zip(found["torch"], found["onnx"], strict=True))
    differences = [abs(a.score - b.score) for one, other in pairs for a, b in zip(one.words, other.words, strict=True)]
    kept = sum(one.kept == other.kept for one, other in pairs)
    store.add(
        key, {"largest_difference": max(differences), "words": len(differences), "texts_with_the_same_words": kept}
    )


def fixture() -> None:
    """The peer's results on the tests' own classifiers."""
    spec = importlib.util.spec_from_file_location("tiny_classifiers", TESTS / "compression" / "tiny_classifiers.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    counted: dict[str, int] = {}
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for family in NAMES:
            folder = tiny.saved(Path(scratch), family)
            peer = _peer(folder)
            cl100k = peer.oai_tokenizer.encode

            class Counting:
                def encode(self, text: str, cl100k: Any = cl100k) -> list[int]:
                    ids = cl100k(text)
                    counted[text] = len(ids)
                    return ids

            peer.oai_tokenizer = Counting()
            for options, inputs, settings in (
                *((label, tiny.PROMPTS, given) for label, given in GRID.items()),
                *((label, [tiny.PROMPTS[:4], tiny.PROMPTS[2:]], given) for label, given in CONTEXTS.items()),
            ):
                for number, text in enumerate(inputs):
                    result = _result(peer.compress_prompt, text, settings)
                    assert not isinstance(result, str), (options, number, result)
                    cases.append({"family": family, "options": settings, "context": text, "result": result})
    saved = {"package": "llmlingua 0.2.2", "torch": torch.__version__, "tokens": counted, "cases": cases}
    FIXTURE.parent.mkdir(exist_ok=True)
    raw = json.dumps(saved, ensure_ascii=False).encode()
    scratch_file = FIXTURE.with_suffix(".tmp")
    scratch_file.write_bytes(gzip.compress(raw, mtime=0))
    os.replace(scratch_file, FIXTURE)
    print(f"{FIXTURE}: {len(cases)} cases, {FIXTURE.stat().st_size} bytes")


def _peer(folder: Path) -> Any:
    from llmlingua import PromptCompressor

    return PromptCompressor(str(folder), device_map="cpu", use_llmlingua2=True)


def _wordpiece(texts: list[str]) -> PreTrainedTokenizerFast:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=names, show_progress=False)
    )
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    kinds = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **kinds)


def _unigram(texts: list[str]) -> PreTrainedTokenizerFast:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=8000, special_tokens=names, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(texts, trainer)
    ids = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    kinds = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    kinds |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[])
    parser.add_argument("--part", choices=("agreement", "speed", "onnx"), nargs="*", default=["agreement", "speed"])
    parser.add_argument("--options", nargs="*", default=[*GRID, *CONTEXTS], help="settings by name (default: all)")
    parser.add_argument("--fixture", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoding = tiktoken.encoding_for_model("gpt-3.5-turbo")

    def cl100k(text: str) -> int:
        return len(encoding.encode(text))

    if arguments.fixture:
        fixture()
        return
    store = Store("llmlingua2-peer")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.checkpoint:
            folders = [with_head(folder, Path(scratch)) for folder in arguments.checkpoint]
        else:
            folders = tiny_checkpoints(arguments.data, Path(scratch))
        for folder in folders:
            classifier = KeepClassifier.from_pretrained(folder)
            released = LlmLingua2.released(classifier, cl100k)
            peer = _peer(folder)
            if "agreement" in arguments.part:
                recovery(store, folder.name, peer, released, prompts(arguments.data))
                agreement(store, folder.name, peer, released, prompts(arguments.data), arguments.options)
            if "onnx" in arguments.part:
                onnx_parity(store, folder.name, classifier, prompts(arguments.data)[::4])
            if "speed" in arguments.part:
                speed(store, folder.name, peer, classifier, cl100k, arguments.data, "onnx" in arguments.part)


if __name__ == "__main__":
    main()
