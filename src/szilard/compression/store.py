"""Compressed contexts on disk, by id: documents are compressed, and read by the model, once.

A folder holds one folder per entry: `entry.json` (what it is, and the SHA-256 of itself and of every other file),
`text.json` or `vectors.safetensors`, and where wanted `cache.safetensors`, keys and values of the prompt's beginning up
to the end of the context. An entry appears whole or not at all, and is checked when it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from szilard.compression.text import CompressedText, Word
from szilard.engines.kv_prefix import KvPrefix, compute_prefix
from szilard.engines.prepared_context import PreparedContext, SoftPrompt
from szilard.engines.prompt_parts import around_context, context_vectors
from szilard.whole_folder import check_folder, whole_folder

if TYPE_CHECKING:
    from szilard.engines.engine import Engine

_FORMAT = "szilard context 1"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class StoredContext(PreparedContext):
    """An entry of a store: what `engine.generate(prompt, context=...)` takes.

    Attributes:
        id: its name in the store.
        compressed: the text or the vectors.
        prefix: keys and values of the prompt's beginning, or None.
    """

    id: str
    compressed: CompressedText | SoftPrompt
    prefix: KvPrefix | None = None

    @property
    def content(self) -> str | SoftPrompt:
        """The text, or the vectors."""
        return self.compressed.content


class ContextStore:
    """A folder of compressed contexts.

    Args:
        folder: made with its first entry.

    Raises:
        ValueError: a place where no folder can be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() or self.folder.is_symlink():
            check_folder(self.folder)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and bool(_ID.fullmatch(id)) and (self.folder / id / "entry.json").is_file()

    def __iter__(self) -> Iterator[str]:
        if self.folder.is_dir():
            yield from sorted(path.name for path in self.folder.iterdir() if path.name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def put(
        self, compressed: CompressedText | SoftPrompt, id: str | None = None, *, engine: Engine | None = None
    ) -> str:
        """Keep a compressed context; an entry of the same id is replaced.

        Args:
            compressed: what a compressor gave.
            id: letters, digits, dots, dashes; None: made from the contents.
            engine: a model on transformers that reads the context now, in front of a prompt in its chat template, so
                that prompts need not; None: nothing but the text or the vectors is kept.

        Returns:
            The id.

        Raises:
            ValueError: an id that is no file name, a model whose cache cannot be stored, or a soft prompt of another.
        """
        if id is None:
            id = _digest(compressed)
        check_id(id)
        check_folder(self.folder)
        prefix = None
        if engine is not None:
            check_stores(engine)
            head, _ = around_context(engine, "?")
            vectors = context_vectors(engine, [torch.tensor(head, dtype=torch.long), compressed])
            prefix = compute_prefix(engine, head, vectors)
        with whole_folder(self.folder / id) as scratch:
            entry: dict[str, Any] = {"format": _FORMAT, "id": id}
            if isinstance(compressed, CompressedText):
                entry["kind"] = "text"
                text = json.dumps(dataclasses.asdict(compressed), ensure_ascii=False)
                (scratch / "text.json").write_text(text, encoding="utf-8")
            else:
                entry |= {"kind": "soft prompt", "method": compressed.method, "model": compressed.model}
                entry |= {"original_tokens": compressed.original_tokens, "cost": compressed.cost}
                save_file({"embeddings": compressed.embeddings.contiguous().cpu()}, scratch / "vectors.safetensors")
            if prefix is not None:
                entry["cache"] = {"head": list(prefix.head), "model": prefix.model, "layers": len(prefix.layers)}
                tensors: dict[str, torch.Tensor] = {}
                for index, (keys, values) in enumerate(prefix.layers):
                    tensors |= {f"{index}.keys": keys.contiguous().cpu(), f"{index}.values": values.contiguous().cpu()}
                save_file(tensors, scratch / "cache.safetensors")
            entry["sha256"] = {path.name: _sha256(path) for path in sorted(scratch.iterdir())}
            entry["sha256"]["entry.json"] = _digest_of(entry)
            (scratch / "entry.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")
        return id

    def get(self, id: str, *, cache: bool = True) -> StoredContext:
        """An entry.

        Args:
            id: its name.
            cache: read its keys and values, too, where it has them.

        Raises:
            ValueError: no such entry, or one that is damaged.
        """
        folder = self.folder / str(id)
        if id not in self:
            known = ", ".join(list(self)[:5])
            raise ValueError(f"there is no context {id!r} in {str(self.folder)!r}; it holds: {known or 'nothing'}.")
        try:
            entry = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
            if not isinstance(entry, dict):
                raise ValueError("entry.json holds no entry")
            if entry.get("format") != _FORMAT:
                raise ValueError(f"its format is {entry.get('format')!r}")
            checksums = dict(entry["sha256"])
            if checksums.pop("entry.json") != _digest_of(entry):
                raise ValueError("the checksum of entry.json does not match")
            for name, expected in checksums.items():
                if (cache or name != "cache.safetensors") and _sha256(folder / name) != expected:
                    raise ValueError(f"the checksum of {name} does not match")
            compressed = _read(folder, entry)
            prefix = None
            if cache and "cache" in entry:
                tensors, kept = load_file(folder / "cache.safetensors"), entry["cache"]
                layers = tuple((tensors[f"{i}.keys"], tensors[f"{i}.values"]) for i in range(kept["layers"]))
                prefix = KvPrefix(tuple(kept["head"]), layers, kept["model"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"the context {id!r} in {str(self.folder)!r} is damaged ({error}): compress and store it again."
            ) from error
        return StoredContext(id, compressed, prefix)

    def remove(self, id: str) -> None:
        """Forget an entry.

        Raises:
            ValueError: no such entry.
        """
        if id not in self:
            raise ValueError(f"there is no context {id!r} in {str(self.folder)!r}.")
        (self.folder / id / "entry.json").unlink()  # from here on it is no entry
        shutil.rmtree(self.folder / id)


def check_id(id: Any) -> None:
    """Refuse what no entry can be called.

    Raises:
        ValueError: in a sentence.
    """
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError(
            "an id is 1 to 128 letters, digits, dots, dashes and underscores, beginning with a letter or digit, "
            f"not {id!r}."
        )


def check_stores(engine: Engine) -> None:
    """Refuse an engine whose keys and values cannot be stored.

    Raises:
        ValueError: in a sentence.
    """
    if engine.kind != "transformers":
        raise ValueError(f"{engine.name} on {engine.kind} gives no keys and values to store: use transformers.")


def _read(folder: Path, entry: dict[str, Any]) -> CompressedText | SoftPrompt:
    if entry["kind"] == "text":
        values = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        return CompressedText(**values | {"words": tuple(Word(**word) for word in values["words"])})
    vectors = load_file(folder / "vectors.safetensors")["embeddings"]
    return SoftPrompt(vectors, entry["original_tokens"], entry["method"], entry["model"], cost=entry["cost"])


def _sha256(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _digest_of(entry: dict[str, Any]) -> str:
    """Of all that `entry.json` says but this."""
    checksums = {name: value for name, value in entry["sha256"].items() if name != "entry.json"}
    text = json.dumps(entry | {"sha256": checksums}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(compressed: CompressedText | SoftPrompt) -> str:
    found = hashlib.sha256(compressed.method.encode())
    if isinstance(compressed, CompressedText):
        found.update(compressed.original.encode() + b"\0" + compressed.text.encode())
    else:
        found.update(compressed.model.encode() + compressed.embeddings.float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]
