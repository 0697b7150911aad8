"""What came of every paper's claim: a row per method for the head of docs/reproduction.md.

Written by hand from the page's tables and readings; a paper's numbers are those of its abstract or tables.
"""

from __future__ import annotations

from dataclasses import dataclass

REPRODUCED, PARTLY, NOT = "reproduced", "partly", "not"
CANNOT = "cannot be tried here"  # it needs a large model or a GPU, and no smaller effect can be measured
NOT_YET = "not measured yet"
OUTCOMES = (REPRODUCED, PARTLY, NOT, CANNOT, NOT_YET)


@dataclass(frozen=True)
class Row:
    """A method and what came of its claim.

    Attributes:
        name: as its authors write it.
        covers: its names in the registry, in `szilard train` and in `szilard analyze`; where `section` is None, the
            first is also that of its page in docs/methods/.
        section: the heading of the page's section that measures it; None where nothing is on record.
        outcome: one of `OUTCOMES`.
        claim: the paper's, in at most 15 words.
        measured: here, in at most 25 words.
    """

    name: str
    covers: tuple[str, ...]
    section: str | None
    outcome: str
    claim: str
    measured: str


# Baselines, controls and tools, for which no paper's claim is tried.
WITHOUT_CLAIM = (
    *("greedy", "sampling", "beam-search", "random-eviction", "random-dropping", "truncation", "mean-pool"),
    *("cot", "masked-diffusion", "long-context", "open-ended"),
)
_BUDGETS = "Quality at equal budgets"
_WINDOW = "A window of the canvas: zoo/tiny-diffusion"
_LISTS = "ParallelBench, lists of single words: zoo/tiny-diffusion"
_CONCEPTS = "Concepts and sparse autoencoders"

# fmt: off
ROWS = (
    Row("LEAD", ("lead",), "LEAD", NOT,
        "1 to 5 points over chain of thought on five 7B multimodal models",
        "3.4 points below greedy on the tiny vision model; GSM8K: +2.1 (Qwen 1.5B, 48 problems, p = 1.00), "
        "-3.3 (SmolLM2)"),
    Row("SwiReasoning", ("swi-reasoning",), "Latent thinking on GSM8K", NOT,
        "+1.8 to +3.1 % accuracy, 57 to 79 % better token efficiency (reasoning models)",
        "As right as greedy (52.1 % of 48 problems) in 306 tokens for 302 (Qwen 1.5B); "
        "2.0 points below on the tiny vision model"),
    Row("Soft Thinking", ("soft-thinking",), "Latent thinking on GSM8K", NOT,
        "One to three points on reasoning models of 7 B and more",
        "+4.2 points on 48 problems (Qwen 1.5B, p = 0.73), -3.3 (SmolLM2), -1.5 on the tiny vision model"),
    Row("EAD", ("ead",), "EAD", PARTLY,
        "93 to 97 % of the large model's accuracy with 25 to 43 % of its tokens",
        "HumanEval: 97 % with 42 %, chance 3 points behind, uncertain; "
        "GSM8K: 37.0 % right for 60.5 with 46 %, chance ahead"),
    Row("AdaDec", ("adadec",), "AdaDec", PARTLY,
        "3.7 and 7.3 points over greedy (0.5 and 1.5 B), at or above beam search",
        "HumanEval +4.9 (0.5 B, p = 0.12) and +11.0 (1.5 B, p < 0.001), MBPP 0.0 and +1.0; "
        "three beams are better everywhere"),
    Row("CAAD", ("caad",), "CAAD", NOT,
        "+2.8 % on TruthfulQA on average (3 to 14 B)",
        "At the paper's threshold likelihoods stay as they are (MC2 40.9 %); at 0.3 3.2 points are lost, "
        "shuffled logits do better"),
    Row("EDT", ("edt",), None, NOT_YET,
        "Quality and diversity better balanced than at fixed temperatures (13 B)",
        "Nothing is on record"),
    Row("Latent-SFT", ("latent-sft",), "Latent-SFT", PARTLY,
        "50.4 % right in half the steps of written chains (49.4); in a quarter 44.6",
        "Half the steps: 99.8 % right (written chains 100.0); a quarter: 19.6; the three ablations go the paper's way"),
    Row("LaDiR", ("ladir",), "LaDiR", NOT,
        "43.5 % right, written chains 39.3 (8 B); Countdown pass@100 75.2 for 15.4",
        "Chains at best 76.8 % right, written ones 99.8; more than five denoising steps do not help; "
        "Countdown pass@8 26.7 for 67.3"),
    Row("Prompt lookup", ("prompt-lookup",), "Spec-Bench", PARTLY,
        "1.75 tokens per pass, 1.66 times as fast (7 B, GPU)",
        "1.46 tokens per pass (SmolLM2, 60 prompts), the same text; "
        "on one core 0.97 times as fast, on translations 1.85"),
    Row("ADED", ("aded",), "Spec-Bench", PARTLY,
        "1.8 to 2.5 times as fast with a table counted on a corpus (GPU)",
        "1.37 tokens per pass and 1.02 times as fast on one core; "
        "an empty table learns, from 2.0 tokens per pass to 2.4"),
    Row("Draft model", ("draft-model",), "Spec-Bench", NOT,
        "Two to three times as fast with the same text (11 B)",
        "Qwen 0.5 B for 1.5 B rests, 0.98 times as fast; SmolLM2's first ten layers: 1.05 tokens per pass, 0.29 times"),
    Row("Medusa", ("medusa",), "Spec-Bench", PARTLY,
        "2.31 tokens per pass, 1.71 times as fast (7 B, GPU)",
        "1.48 tokens per pass with whole trees, on held-out answers 2.06; 0.93 times as fast on one core"),
    Row("Chimera", ("chimera",), "Spec-Bench", PARTLY,
        "2.7 times as fast (7 B, GPU)",
        "1.57 tokens per pass with whole trees (Medusa 1.48), on held-out answers 2.57 (2.06); "
        "0.86 times as fast on one core"),
    Row("Hidden Transfer", ("hidden-transfer",), "Spec-Bench", PARTLY,
        "More drafted tokens accepted, and faster, than Medusa",
        "1.79 tokens per pass for Medusa's 1.48, more on every kind of prompt; not faster on one core (both 0.93)"),
    Row("FLASH", ("flash",), "FLASH on pictures: `zoo/tiny-vlm`", PARTLY,
        "Up to 2.68 times as fast on vision-language models (GPU)",
        "4.24 tokens per pass; 1.08 times as fast, in batches of eight 0.67; image latents make no difference"),
    Row("LUD", ("lud",), "Lexical units: quality against speed", NOT,
        "A third faster at no loss on text, 30 % faster at 3 % loss on code",
        "At the paper's threshold 1.02 tokens per pass; at 0.3 1.37, and the text is spoilt (1.81 nats for 0.65); "
        "never faster"),
    Row("TidalDecode", ("tidal-decode",), "TidalDecode: time per token", REPRODUCED,
        "Needle in 92 to 99 % with 64 to 128 tokens; 2.1 times as fast",
        "99 to 100 % of needle digits with as many, in 512 tokens; "
        "SmolLM2 at 32,768: 2.3 times as fast as full attention"),
    Row("Quest", ("quest",), _BUDGETS, REPRODUCED,
        "2.23 times lower latency with negligible loss",
        "31 of 32 needles with 16 tokens, all pairs with 32; SmolLM2 at 32,768: 2.0 times as fast as full attention"),
    Row("StreamingLLM", ("streaming-llm",), _BUDGETS, PARTLY,
        "Stable to 4 million tokens, 22.2 times as fast as recomputing",
        "Text goes on with 6 % of the slots (3.767 nats, full cache 3.757); needles are lost; "
        "beyond the trained length not tried"),
    Row("H2O", ("h2o",), _BUDGETS, PARTLY,
        "A fifth of the cache keeps quality, at 29 times the throughput",
        "With 24 % of the slots text goes on (3.759 nats for 3.757), 25 % of needle digits stay; "
        "throughput not measured"),
    Row("TOVA", ("tova",), _BUDGETS, PARTLY,
        "Nearly the full model with an eighth of the cache, 4.8 times the throughput",
        "With 12 % of the slots text goes on (3.763 nats for 3.757); needle digits 68 %, asked after 18; "
        "throughput not measured"),
    Row("SnapKV", ("snapkv",), _BUDGETS, PARTLY,
        "At 16K 3.6 times as fast and 8.2 times less memory, comparable quality",
        "SmolLM2 at 8,000 tokens: 2.6 times as fast, 18 MB for 369; "
        "with 15 % of the slots 77 % of needle digits, asked after 26"),
    Row("PyramidKV", ("pyramidkv",), _BUDGETS, PARTLY,
        "As good as the full cache with 12 % of it",
        "With 15 % of the slots 80 % of needle digits (SnapKV 77), asked after 29; 25 % of pairs; full cache 100"),
    Row("Knorm", ("knorm",), _BUDGETS, NOT,
        "No loss with half the cache, on passkeys with a tenth",
        "With a tenth 22 % of a hidden number's digits, with a quarter 65; text goes on, as by chance; half not tried"),
    Row("KeyDiff", ("keydiff",), _BUDGETS, REPRODUCED,
        "Less than 0.04 % lost with 23 % fewer keys (3 and 8 B)",
        "With 15 % of the slots 100 % of needle digits and 84 % of pairs, with 27 % 97; best of those that evict"),
    Row("Expected attention", ("expected-attention",), _BUDGETS, PARTLY,
        "Compresses without loss and is ahead of the baselines",
        "With 15 % of the slots 79 % of needle digits, asked after too (SnapKV 77 and 26), and 53 % of pairs; "
        "behind KeyDiff"),
    Row("UNComp", ("uncomp", "matrix-entropy"), "UNComp: budgets by head", PARTLY,
        "1.4 points of LongBench lost with 4.7 % of the cache; budgets by heads' entropy",
        "Needle digits by budgets: high entropy 125 of 192, even 125, chance 120, reversed 111, full cache 192; "
        "19 MB for 369"),
    Row("EntropyPrune", ("entropy-prune", "visual-entropy"), "EntropyPrune: pictures in fewer tokens", PARTLY,
        "96 % of the accuracy with 68 % fewer visual FLOPs (7 B)",
        "88 % with 52 % fewer at the layer its profile chooses (72 % right, chance 64, attention 71); "
        "one layer on below chance"),
    Row("FiRST", ("first",), "FiRST: layers that are skipped", PARTLY,
        "10 to 12 % less time with 15 % skipped; better than unified skipping",
        "Half the layers: 0.61 of the time; SmolLM2 without three of 30: 2.47 nats, unified 3.00, a fixed set 2.30"),
    Row("Unified skipping, ShortGPT", ("layer-skip",), "FiRST: layers that are skipped", PARTLY,
        "A quarter of the layers removed, about 90 % of the score kept (ShortGPT)",
        "Block influence finds the best set for both tiny tasks; "
        "SmolLM2 without a tenth: 1.85 to 2.30 nats, luckiest chance 2.29"),
    Row("Top-k and schedules, on ParallelBench", ("top-k-unmask", "schedule-unmask"), _LISTS, REPRODUCED,
        "Accuracy falls from 86.4 to 74.4 at two tokens per step, 41.1 at eight",
        "99.6 falls to 75.2 and 66.3; at random places two keep 92.6, as claimed; "
        "small blocks, claimed to help, do not"),
    Row("Fast-dLLM's threshold", ("threshold-unmask",), _LISTS, REPRODUCED,
        "Threshold 0.9 leaves GSM8K at 79.2 for 79.3 (8 B)",
        "Lists: 99.1 for 99.6 in 2.89 rounds of 32; texts: 98.0 % of the columns as before in 41 rounds of 64"),
    Row("Fast-dLLM's factor", ("factor-unmask",), "Tokens per round at an accuracy", PARTLY,
        "As good as thresholds: 4.05 tokens per step at 80 % (4.09)",
        "18.48 tokens per round at 80 % (threshold 25.06); on true distributions ahead, 2.88 rounds for 3.58"),
    Row("EB-Sampler", ("entropy-bound",), _LISTS, REPRODUCED,
        "Two to three times fewer evaluations at equal quality",
        "99.4 for 99.6 in 5.37 rounds of 32; no better than a threshold (99.1 in 2.89)"),
    Row("Fast-dLLM's caches", ("prefix-cache", "dual-cache"), _WINDOW, PARTLY,
        "54.4 tokens/s for 6.7 with parallel decoding, 78.5 for 79.3 on GSM8K (8 B)",
        "Canvas of 1,024: prefix 1.75 and dual 9.0 times as fast; texts: 54 and 51 % of the columns as before"),
    Row("Window-Diffusion", ("window-diffusion",), _WINDOW, PARTLY,
        "Most of the quality; up to 99 times faster, 15 by stopping",
        "Canvas of 1,024: 9.7 times as fast; texts: 48 % of the columns as before, 64 with the largest window"),
    Row("LocalLeap", ("localleap",), "Texts that are determined in part: zoo/tiny-diffusion", PARTLY,
        "14.2 % of the steps, 6.94 times the throughput, quality unchanged",
        "Lists: 98.9 for 99.6 in 2.7 rounds of 32; "
        "against thresholds at as many rounds even (97.2 for 96.0, 93.4 for 94.0)"),
    Row("ETE", ("ete",), "The same rules on true distributions", PARTLY,
        "Fewer rounds than rules of confidence at their quality",
        "True distributions: 2.67 rounds for the threshold's 3.58, both 100 %; "
        "trained model: no gain (90.7 % in 2.08 rounds)"),
    Row("Learn2PD", ("learn2pd",), _LISTS, PARTLY,
        "4.13 times faster on GSM8K at 78.6 for 78.7 (8 B)",
        "98.3 for 99.6 in 2.73 rounds of 32, 99.2 in 4.72; thresholds need 2.6 and 3.1; "
        "its end-of-text rule costs nothing"),
    Row("LLMLingua-2", ("llmlingua2",), "From training to answers", PARTLY,
        "86.9 of 87.8 points with a third of the tokens (Selective Context 66.3)",
        "All answers left with a third (Selective Context 67 %), 56.2 % read rightly for 67.2; "
        "results are the released package's"),
    Row("LLMLingua", ("llmlingua",), "From training to answers", NOT,
        "Up to 20 times fewer tokens with little loss",
        "With a third of the tokens 47 % of the answers left (chance 33), 31.2 % read rightly for 67.2"),
    Row("Selective Context", ("selective-context",), "From training to answers", PARTLY,
        "Half the context costs 0.023 of BERTScore",
        "With half the tokens 83 to 88 % of the answers left (chance 52), with a third 61 to 67"),
    Row("REFRAG", ("refrag",), "REFRAG", PARTLY,
        "A vector per 16 tokens: log-perplexity 1.076, whole context 1.069, none 1.254",
        "Vectors of four: 5.26 nats, text 1.26, none 5.86; the policy finds all marked chunks (chance 13 %); "
        "curriculum undecided"),
    Row("ARC-Encoder", ("arc-encoder",), "ARC-Encoder", PARTLY,
        "Repeating and continuing mixed 41.6, continuing alone 39.8, repeating 37.5",
        "Of the gap closed: mixed 27 %, continuing 21, repeating 15; "
        "seeing both ways does not help, last tokens are worse"),
    Row("ComprExIT", ("comprexit",), "Recall behind vectors", NOT,
        "52.3 % at 4 tokens per slot (whole context 55.7, none 4.9)",
        "As published 39 % of values at any rate, as without context; "
        "with two changes of ours 99.9 at two tokens per slot"),
    Row("Agentic MI", ("agentic-mi",), "Agentic MI", PARTLY,
        "Bits foretell accuracy; larger compressors gain 60 %, larger predictors 12",
        "Correlation 0.98 at equal length, compressors matter more (0.111, 0.041 nats); "
        "larger Qwen worse, bits per token say nothing"),
    Row("Hyperfitting", ("hyperfitting",), "Hyperfitting", PARTLY,
        "Greedy text preferred in 42.9 % (before 24.2), type-token ratios above 60",
        "Type-token ratio 24.3 to 47.5 %, loops 46 to 0 %, entropy 3.63 to 1.54 nats; "
        "nobody was asked what they prefer"),
    Row("Entropy-Guided Attention", ("entropy-guided-attention", "attention-entropy", "private-inference"),
        "Entropy-Guided Attention", PARTLY,
        "Without norms and activations training fails; the penalty takes perplexity from 3.48 to 3.21",
        "It trains, and fails at a high rate; penalty 2.273 to 2.258 nats (within seeds), "
        "from a collapsed start 2.422 to 2.217"),
    Row("QLAE", ("qlae", "infomec", "infogan"), "QLAE", PARTLY,
        "Most modular and explicit of five models at no loss of reconstruction",
        "Codebook losses at 0.1: InfoM 0.56, InfoE 0.98, 31.7 dB (AE 0.41, 0.91, 31.1); "
        "at the paper's 0.01 0.52, 0.91, 29.8"),
    Row("Information Koopman", ("koopman",), "Information Koopman", PARTLY,
        "Lorenz error at 50 steps .023 to .013 with the information terms",
        "Over 50 steps Lorenz 1.07 to 0.92, limit cycle 0.30 to 0.23; "
        "three systems gain nothing, the paper's weights harm"),
    Row("Concept alignment", ("concepts",), _CONCEPTS, PARTLY,
        "Concept directions times probe weights are near the identity",
        "Diagonal 0.81 to 0.86 (chance 0.07), elsewhere 0.1, in context only; simulation: four concepts yes, eight no"),
    Row("Concept autoencoders", ("sae",), _CONCEPTS, PARTLY,
        "Structured codes follow posteriors best, then p-annealing and batch-top-k, then top-k",
        "SmolLM2: structured 0.67, batch-top-k 0.66, top-k 0.60, p-annealing 0.56; "
        "planted 0.63 for 0.45, mostly density's"),
    Row("VL-JEPA", ("vl-jepa",), "VL-JEPA", PARTLY,
        "CIDEr 14.8 for a token model's 7.1, classification 41.0 for 27.2 %",
        "Questions 96.9 % for 72.9; CIDEr 1.39 for 2.94, classification 44.5 for 93.8; "
        "streams need a tenth of the decodings"),
    Row("Markov-LM", ("markov",), "Markov diagnostics", PARTLY,
        "States lie by their predictions; loss and entropy fall to the source's",
        "Order 2: loss 1.158 (source 1.146), rho 0.29 to 0.97; SmolLM2: rho 0.53; the leading directions' claim fails"),
    Row("MLICv2", ("codec",), "MLICv2", PARTLY,
        "BD-rate -16.54 % against VTM-17.0 on Kodak, -20.46 with refined latents",
        "-20.0 % against CompressAI's mean-scale, -27.3 against cheng2020; refining -9.7; "
        "far below WebP, VTM not tried"),
    Row("FEDS", ("feds",), "FEDS", NOT,
        "63 % fewer parameters, 73 % less time, 1.24 % BD-rate lost on Kodak",
        "62 % fewer parameters, 62 % of the bits lost to the teacher; from scratch 7.5 % saved: nothing to teach at this size"),
    Row("LV-RAE", ("lv-rae",), "LV-RAE", PARTLY,
        "32.32 dB (SVG 21.71); under noise the robust decoder keeps 21.61 for 13.68",
        "20.9 dB for 14.4 without the residual; under noise 20.6 for 19.2; robust decoding halves the distance of generated samples"),
)
# fmt: on
