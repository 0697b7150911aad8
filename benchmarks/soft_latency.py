"""When does the first token come? A context as tokens, as vectors made on the way, as vectors made before, and stored.

    python benchmarks/soft_latency.py --data FOLDER [--encoder FOLDER] [--lengths 2048,4096,8000] [--ratio 8]

The model is the embedded SmolLM2-135M-Instruct. The add-ons have their full shape and are not trained: time depends on
shapes alone. Beside the time stands what the layers of the decoder (and of the encoder, where it is the same model)
were run over, in layer-tokens: on a CPU, which computes all the time, the two must tell the same story.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results_store import Store

import szilard
from szilard.compression.mean_pool.modules import MeanPoolProjector
from szilard.compression.refrag.add_on import new_parts
from szilard.training.target import Target

QUESTION = "What is this text about?"


def compressors(engine: Any, ratio: int, encoder: str) -> dict[str, Any]:
    base = Target(engine).base
    refrag = new_parts(base, engine.tokenizer, encoder=encoder, chunk=ratio)
    return {
        "mean-pool": szilard.MeanPool(MeanPoolProjector(base, layer=15, ratio=ratio, scale=0.1)),
        "comprexit": szilard.ComprExIT.from_causal_lm(engine, ratio=ratio, window=128),
        "arc-encoder, pieces of 512": szilard.ArcEncoder.from_causal_lm(
            engine, pooling_factor=ratio, truncate_layers=2
        ),
        "refrag": szilard.Refrag(refrag, policy="none"),
    }


def first_token(engine: Any, context: Any) -> tuple[float, float]:
    """Seconds to the first token, and the decoder's layer-tokens."""
    started = time.perf_counter()
    result = engine.generate(QUESTION, context=context, max_new_tokens=1, trace=False)
    (name,) = result.cost.layer_tokens
    return time.perf_counter() - started, result.cost.layer_tokens[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with wikitext2_test.txt")
    parser.add_argument("--encoder", default="small", help="REFRAG's encoder: folder or hub id of a small BERT")
    parser.add_argument("--lengths", default="2048,4096,8000")
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    engine = szilard.load(device="cpu")
    ids = engine.tokenizer((arguments.data / "wikitext2_test.txt").read_text(), verbose=False)["input_ids"]
    store = Store("soft-latency")
    made = compressors(engine, arguments.ratio, arguments.encoder)
    first_token(engine, "warm up")
    for length in map(int, arguments.lengths.split(",")):
        text = engine.tokenizer.decode(ids[:length])
        key = {"context": length, "threads": torch.get_num_threads(), "ratio": arguments.ratio}
        tokens = len(engine.tokenizer.encode(text, add_special_tokens=False))
        if (whole := key | {"method": "the context itself"}) not in store:
            seconds, layer_tokens = first_token(engine, text)
            with tempfile.TemporaryDirectory() as folder:
                shelf = szilard.ContextStore(folder)
                kept = szilard.compress(text, szilard.Truncation.neutral(), engine=engine)
                shelf.put(kept, "text", engine=engine)
                started = time.perf_counter()
                entry = shelf.get("text")
                reading = time.perf_counter() - started
                stored, stored_layers = first_token(engine, entry)
                size = sum(path.stat().st_size for path in (Path(folder) / "text").iterdir())
            store.add(
                whole,
                {
                    "tokens": tokens,
                    "positions": tokens,
                    "seconds": seconds,
                    "layer_tokens": layer_tokens,
                    "stored_seconds": stored + reading,
                    "stored_layer_tokens": stored_layers,
                    "stored_bytes": size,
                },
            )
            print(length, "itself", round(seconds, 2), layer_tokens, "stored", round(stored + reading, 2), flush=True)
        for name, method in made.items():
            if (own := key | {"method": name}) in store:
                continue
            if name.endswith("512"):
                method = szilard.ArcEncoder(checkpoint=method.checkpoint, chunk=512)
            started = time.perf_counter()
            soft = szilard.compress(text, method, engine=engine)
            compressing = time.perf_counter() - started
            seconds, layer_tokens = first_token(engine, soft)
            store.add(
                own,
                {
                    "tokens": tokens,
                    "positions": soft.positions,
                    "compressing_seconds": compressing,
                    "encoder_layer_tokens": soft.cost.get("layer_tokens"),
                    "encoder_tokens": soft.cost.get("encoder_tokens"),
                    "seconds": seconds,
                    "layer_tokens": layer_tokens,
                },
            )
            print(length, name, soft.positions, round(compressing, 2), round(seconds, 2), layer_tokens, flush=True)


if __name__ == "__main__":
    main()
