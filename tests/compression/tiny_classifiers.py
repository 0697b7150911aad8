"""Token classifiers of a few thousand weights, the same on every machine: vocabularies and numbers come from here."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

_WORDS = (
    "the a an of and to in is was for on that with as by at from it be are were this which or have has had not "
    "but they his her she he one two all can will when who more other out their so up time if what about than "
    "into her some these then now only its over also new where after many most through how between state city "
    "code access question answer how each day eggs sells market duck total number person name river film song "
    "year first school water king town write function return list print def import value key table price order "
    "report meeting council budget motion item"
).split()
_ENDINGS = "s ed ing er est ly ion tion ment ness able al ity ous ive es en 's re un in de th nd rd st".split()
_CHARACTERS = sorted(set(string.printable.strip()) | set("äöüéèñß€°²µ–—“”’…机器学习很好不"))


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece like that of multilingual BERT: cased, "##" within words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_CHARACTERS, *(f"##{one}" for one in _CHARACTERS)]
    tokens += [*_WORDS, *(word.capitalize() for word in _WORDS), *(f"##{one}" for one in _ENDINGS)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


def xlm_roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram like that of XLM-RoBERTa: words begin with U+2581, white space is normalised away."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -3.0)]
    pieces += [(one, -8.0) for one in _CHARACTERS]
    pieces += [(f"\u2581{word}", -4.0) for word in dict.fromkeys([*_WORDS, *(word.capitalize() for word in _WORDS)])]
    pieces += [(one, -5.0) for one in _ENDINGS] + [("<mask>", 0.0)]
    pieces = list(dict(reversed(pieces)).items())[::-1]
    order = {piece: index for index, (piece, _) in enumerate(pieces)}
    backend = Tokenizer(models.Unigram(pieces, unk_id=order["<unk>"]))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", order["<s>"]), ("</s>", order["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def bert_classifier(labels: int = 2) -> Any:
    """A random BERT with a label per token."""
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), **_SHAPE, num_labels=labels, max_position_embeddings=512, pad_token_id=0
    )
    return _filled(BertForTokenClassification(config))


def xlm_roberta_classifier(labels: int = 2) -> Any:
    """A random XLM-RoBERTa with a label per token."""
    tokenizer = xlm_roberta_tokenizer()
    special = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in _XLM_SPECIALS}
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        **_SHAPE,
        num_labels=labels,
        max_position_embeddings=514,
        type_vocab_size=1,
        **special,
    )
    return _filled(XLMRobertaForTokenClassification(config))


def saved(folder: Path, family: str) -> Path:
    """A classifier and its tokenizer on disk, under a name by which the released code knows its family."""
    name, model, tokenizer = {
        "bert": ("bert-base-multilingual-cased-tiny", bert_classifier, bert_tokenizer),
        "xlm-roberta": ("xlm-roberta-large-tiny", xlm_roberta_classifier, xlm_roberta_tokenizer),
    }[family]
    model().save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / name)
    return folder / name


_XLM_SPECIALS = (("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"))
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


@torch.no_grad()
def _filled(model: Any, seed: int = 5) -> Any:
    """Weights from numpy, whose stream does not change with the version: wide enough that probabilities spread."""
    chance = np.random.default_rng(seed)
    for name, weight in model.named_parameters():
        values = chance.standard_normal(tuple(weight.shape), dtype=np.float32)
        if "LayerNorm" in name:
            weight.copy_(torch.from_numpy(values * 0.1 + ("weight" in name)))
        else:
            weight.copy_(torch.from_numpy(values * (0.6 if "classifier" in name else 0.25)))
    return model.eval()


# What the released code was run on; the last is longer than one chunk.
PROMPTS = [
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and sells the remainder at the "
    "farmers' market daily for $2 per fresh duck egg. How much in dollars does she make every day?\nThe answer is 18.",
    "Item 15, report from City Manager: recommendation to adopt three resolutions.\n\nFirst, to join the program; "
    "second, to appoint the mayor (or his deputy); third, to write a letter. Motion? Motion!! Second?? The vote: 7-0.",
    "def total(prices):\n    # sums 3 * 4 + 12 / 6 = 14\n    return sum(prices)  # not a list? -> 0\n",
    "In 2005 the École was 3.5 km from the town; its river (the Øre) rose 40% — nobody knew. 机器学习很好，不是吗？",
    "[CLS] is a token and so is [PAD], or <unk>, or [NEW3]. ##ing -- _under_score_ \u2581 ...",
    " ".join(
        f"The {n}th day was the same as day {n - 1}, and the water in town {n * 7 % 11} rose." for n in range(2, 60)
    ),
]
