"""Every command: where its function is, and its line of help. A command's module is imported when it is run.

`szilard --help` thereby reads no model library. A function may be made: `train_heads:command` is called with the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

Commands = Mapping[str, tuple[str, str]]  # name -> module:function, first paragraph of its docstring

COMMANDS: Commands = {
    "methods": ("methods:methods_command", "List the methods, or the options of one."),
    "info": (
        "info:info_command",
        "Describe a model and the methods that it can run, an image codec, or a picture of `szilard encode`.",
    ),
    "generate": (
        "generate:generate_command",
        "Generate text with a method, for one prompt or for a file of them.",
    ),
    "chat": ("chat:chat_command", "Talk to a model; switch the method in mid-conversation."),
    "compare": (
        "compare:compare_command",
        "Run the same prompts through several methods and show text, entropy and cost side by side.",
    ),
    "compress": (
        "compress:compress_command",
        "Shorten contexts: drop words (text for any model), or make vectors for one model.",
    ),
    "encode": ("encode:encode_command", "Code a picture: `szilard encode photo.png photo.szc`."),
    "decode": ("decode:decode_command", "Decode a picture: `szilard decode photo.szc photo.png`."),
    "trace": ("trace:trace_command", "Show what happened at every step: token, entropy, mode, decision."),
    "evaluate": (
        "evaluate:evaluate_command",
        "Answer a task's items with several methods, score them, and keep every result. Killed runs go on.",
    ),
    "evaluate-codecs": (
        "evaluate_codecs:evaluate_codecs_command",
        "Compare codecs: `szilard evaluate-codecs --images photos --codec mine --codec webp -o results`.",
    ),
    "report": ("report:report_command", "Score, interval, difference from the baseline and cost of every method."),
    "lm-eval": (
        "lm_eval:lm_eval_command",
        "Run lm-evaluation-harness; all arguments are its own (--tasks, --model_args, ...).",
    ),
    "serve": (
        "serve:serve_command",
        "Serve a model over HTTP as OpenAI's API, with a method for every request, and a page to try them.",
    ),
    "doctor": (
        "doctor:doctor_command",
        "Check the installation, or with --profile measure a model's forwards on this machine.",
    ),
}
TRAIN: Commands = {
    "adadec": (
        "train_adadec:adadec",
        "Learn AdaDec's threshold from reference solutions, for `--method adadec --set threshold=FILE`.",
    ),
    "aded": (
        "train_aded:aded",
        "Count tri-grams of texts in a model's tokens, for `--method aded --set table=FOLDER`.",
    ),
    "arc-encoder": (
        "train_arc_encoder:arc_encoder",
        "Train ARC-Encoder, which turns contexts into a few vectors for decoders that stay as they are.",
    ),
    "caad": (
        "train_caad:caad",
        "Replay verified answers through a model and store its logits, for `--method caad --set space=FOLDER`.",
    ),
    "chimera": ("train_heads:command", "Train Chimera's drafter: trigrams fused with the text's hidden states."),
    "codec": (
        "train_codec:codec",
        "Train a learned image codec on photographs: MLICv2 and its presets, or a mean-scale hyperprior.",
    ),
    "comprexit": (
        "train_comprexit:comprexit",
        "Train ComprExIT, which compresses contexts for a model that stays as it is.",
    ),
    "cot": (
        "train_heads:command",
        "Train a model that writes its chain of thought between <think> and </think>, and then the answer.",
    ),
    "entropy-guided-attention": (
        "train_entropy_guided_attention:entropy_guided_attention",
        "Train a GPT-2 without layer norms and activations from scratch, its heads held apart by their entropy.",
    ),
    "feds": (
        "train_feds:feds",
        "Train a small codec with what a large one knows (FEDS, reconstructed): features, channels, fine-tuning.",
    ),
    "first": (
        "train_heads:command",
        "Train FiRST's routers, which choose the layers that a prompt's answer needs (--lora: and bridge the gaps).",
    ),
    "flash": ("train_heads:command", "Train Flash's drafter: several features per forward, images compressed."),
    "hidden-transfer": ("train_heads:command", "Train Hidden Transfer's projections into pseudo hidden states."),
    "hyperfitting": (
        "train_heads:command",
        "Train a model on very few texts until it knows them by heart, so that greedy text stops looping.",
    ),
    "infogan": (
        "train_qlae:infogan",
        "Train a quantised InfoWGAN-GP on pictures: a generator whose codes can be read back from its pictures.",
    ),
    "koopman": (
        "train_koopman:koopman",
        "Train a Koopman autoencoder with information terms (Cheng et al. 2026) on trajectories.",
    ),
    "ladir": (
        "train_ladir:ladir",
        "Train LaDiR: a VAE over sentences, a model that denoises them, and the same model on its own thoughts.",
    ),
    "latent-sft": (
        "train_heads:command",
        "Train a model that thinks in a few distributions over its vocabulary instead of many words.",
    ),
    "learn2pd": (
        "train_learn2pd:learn2pd",
        "Train Learn2PD's filter, which says what predictions of a block are final.",
    ),
    "llmlingua2": (
        "train_llmlingua2:llmlingua2",
        "Train LLMLingua-2's classifier: annotate pairs, leave the worst out, fit.",
    ),
    "lud": ("train_heads:command", "Train a model to write lexical units, several tokens at once."),
    "lv-rae": (
        "train_lv_rae:lv_rae",
        "Train LV-RAE on a frozen vision model; with --no-residual RAE, with --no-residual --tune-vfm F.T.-VFM.",
    ),
    "masked-diffusion": (
        "train_heads:command",
        "Train a model that fills in masked tokens anywhere instead of writing one after the other.",
    ),
    "mean-pool": ("train_heads:command", "Train mean pooling's MLP, the baseline of soft compression."),
    "medusa": ("train_heads:command", "Train Medusa's heads on the last hidden state."),
    "qlae": (
        "train_qlae:qlae",
        "Train QLAE on pictures, or with --bottleneck what it is compared with (ae, beta-vae, vq-vae, fsq, ...).",
    ),
    "refrag": (
        "train_heads:command",
        "Train one stage of REFRAG's parts, which read passages as one vector per chunk (--stage, --start).",
    ),
    "sae": ("train_sae:sae", "Train a sparse autoencoder on the activations of a layer."),
    "tidal-decode": (
        "train_tidal_decode:tidal_decode",
        "Find the layers that should select anew, for `TidalDecode.from_file(FILE)`.",
    ),
    "uncomp": (
        "train_uncomp:uncomp",
        "Measure the matrix entropy of heads and layers on texts, for `--method greedy+uncomp --set uncomp.plan=FILE`.",
    ),
    "vl-jepa": (
        "train_vl_jepa:vl_jepa",
        "Train VL-JEPA (Chen et al. 2025) and its text decoder: captions first, then questions, then the decoder.",
    ),
}
ANALYZE: Commands = {
    "agentic-mi": (
        "analyze_agentic_mi:agentic_mi",
        "Measure which part of an agent system to improve: what compressors keep, what predictors then answer.",
    ),
    "attention-entropy": (
        "analyze_attention_entropy:attention_entropy",
        "Measure the entropy of every attention head, and find heads that look everywhere or at one token.",
    ),
    "concepts": (
        "analyze_concepts:concepts",
        "Compare where word pairs of a concept differ with where a probe for it points (Liu et al. 2026).",
    ),
    "infomec": (
        "analyze_infomec:infomec",
        "Grade latents against the factors that made the data: InfoM, InfoE, InfoC (Hsu et al. 2023).",
    ),
    "long-context": (
        "analyze_long_context:long_context",
        "Hide a number or pairs of words in long text and ask for them under each method; and let the text go on.",
    ),
    "markov": (
        "analyze_markov:markov",
        "Measure entropy and calibration, the surplus of hidden states, predictive geometry and alignment.",
    ),
    "matrix-entropy": (
        "analyze_matrix_entropy:matrix_entropy",
        "Measure the matrix entropy of queries, keys, values or hidden states over layers and heads.",
    ),
    "open-ended": (
        "analyze_open_ended:open_ended",
        "Continue held-out texts and measure variety, loops, copies, entropy and perplexity of one or more models.",
    ),
    "private-inference": (
        "analyze_private_inference:private_inference",
        "Count a GPT-2's or Llama's nonlinear operations, and estimate what two parties would send each other.",
    ),
    "sae": (
        "analyze_concepts:sae",
        "Grade a sparse autoencoder: does a feature follow the posterior of each concept (Liu et al. 2026)?",
    ),
    "visual-entropy": (
        "analyze_visual_entropy:visual_entropy",
        "Measure the matrix entropy of visual tokens in every layer, and find the layer after which it collapses.",
    ),
}
MADE = ("train_heads:command",)  # make a command's function, given the command's name
SETTINGS = {"lm-eval": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}}


def function_of(path: str, name: str) -> Callable[..., Any]:
    """A command's function."""
    module, _, attribute = path.partition(":")
    found = getattr(import_module(f"szilard.cli.{module}"), attribute)
    made: Callable[..., Any] = found(name) if path in MADE else found
    return made


def add_all(app: typer.Typer, commands: Commands) -> None:
    """Commands that are imported on first use."""
    for name, (path, line) in commands.items():
        app.command(name, help=line, cls=_lazy(path, name))(_nothing)


def real_command(path: str, name: str) -> Any:
    """The command itself, with its options."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name, context_settings=SETTINGS.get(name))(function_of(path, name))
    return typer.main.get_command(alone)


def _lazy(path: str, name: str) -> type[TyperCommand]:
    class Lazy(TyperCommand):
        def make_context(self, *arguments: Any, **options: Any) -> Any:
            return real_command(path, name).make_context(*arguments, **options)

    return Lazy


def _nothing() -> None:
    """Stands for a command in its group's help."""
