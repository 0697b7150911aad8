"""szilard in EleutherAI's lm-evaluation-harness: `--model szilard` runs any of its tasks with any method and engine.

The harness finds the class by the entry point group `lm_eval.models`. Releases up to 0.4.13 know no such group; with
them `python -m szilard.evaluation.lm_eval` takes the place of the command `lm_eval`, with the same arguments.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from tqdm import tqdm

from szilard.decoding.method import Method
from szilard.engines import load
from szilard.engines.engine import Engine
from szilard.engines.transformers_generate import check_needs
from szilard.evaluation.likelihood import log_likelihoods
from szilard.evaluation.lm_eval_arguments import batch_size_of, method_of
from szilard.options import check_number
from szilard.registry import make_method

try:
    import lm_eval.models  # noqa: F401 - before our own class: the harness fills an empty registry only
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import MODEL_REGISTRY, register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error.name} is not installed: pip install 'szilard[eval]'", name=error.name) from None

_log = logging.getLogger(__name__)

_DEFAULT_DEVICE = "cuda:0"  # what the harness's command line gives when nobody asked for a device
_DEFAULT_LENGTH = 2048  # for models that set no bound, as in the harness
_AUTO_BATCH = 16
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_HANDLED = {*_LENGTHS, *_SAMPLING, "until", "do_sample", "num_beams", "use_cache"}


class SzilardLM(TemplateLM):
    """A szilard engine and method behind the harness's three kinds of requests.

    Tokens, empty contexts, truncation and stops follow the harness's own `hf` model. A method acts where text is
    written; likelihoods are the model's own unless the method shapes the distribution of given text
    (`Method.shaping`).

    Args:
        pretrained: what `szilard.load` takes (hub id, folder, *.gguf, zoo/<name>; None: the embedded model), or a
            loaded engine.
        engine: "auto", "transformers" or "llama.cpp".
        method: a method's name, or in Python a method object; None: greedy, or sampling where a task asks for it.
        dtype, device, revision, trust_remote_code: as in `szilard.load`.
        max_length: context plus continuation in tokens, at most; None: the model's context window.
        max_gen_toks: new tokens of a generation task that names no limit.
        batch_size: prompts that are generated for at a time; "auto": `max_batch_size`, halved while memory runs out.
            The continuations of one context are always read together.
        max_batch_size: where "auto" starts.
        enable_thinking: handed to the chat template when given.
        think_end_token: only what is written after this text is the answer.
        options: hyperparameters, as `method.NAME=value`.

    Raises:
        ValueError: an unknown argument, method or option, a value that does not fit, or a model that cannot run it.
    """

    def __init__(
        self,
        pretrained: str | Engine | None = None,
        engine: str = "auto",
        method: str | Method | None = None,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        known = [name for name in SzilardLM.__init__.__annotations__ if name not in {"options", "return"}]
        self.method = method_of(method, options, known)
        self.batch_size = batch_size_of(batch_size)
        check_number("max_batch_size", max_batch_size, low=1, integer=True, optional=True)
        check_number("max_gen_toks", max_gen_toks, low=1, integer=True)
        check_number("max_length", max_length, low=2, integer=True, optional=True)
        if isinstance(pretrained, Engine):
            self.engine = pretrained
        else:
            self.engine = load(
                pretrained,
                engine=engine,
                dtype=dtype,
                device=None if device == _DEFAULT_DEVICE and not torch.cuda.is_available() else device,
                revision=None if revision is None else str(revision),
                trust_remote_code=trust_remote_code,
            )
        if self.method is not None:
            check_needs(self.method, self.engine.provides, f"engine '{self.engine.kind}' with {self.engine.name}")
        window = self.engine.context_window
        if window is not None and max_length is not None and max_length > window:
            raise ValueError(
                f"max_length={max_length} is more than the context window of {self.engine.name}, {window}."
            )
        self.tokenizer = self.engine.tokenizer
        self.max_length = max_length or window or _DEFAULT_LENGTH
        self.max_gen_toks = max_gen_toks
        self._device = self.engine.device
        self._read_at_most = self.max_length if window is None else min(self.max_length, window - 1)
        self._batch = self.batch_size or max_batch_size or _AUTO_BATCH
        self._template_options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self._think_end = think_end_token
        self._told: set[str] = set()

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> SzilardLM:
        """From model arguments, which win over the command line's own: that names a device without being asked."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**(given | dict(arg_dict)))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> SzilardLM:
        """The same from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # ---- tokens and templates --------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context: BOS, or EOS where there is none."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ValueError(
            f"{self.engine.name} has neither a BOS nor an EOS token to put in the place of an empty context."
        )

    @property
    def tokenizer_name(self) -> str:
        """By which the harness tells its caches of prompts apart."""
        return str(getattr(self.tokenizer, "name_or_path", "") or self.engine.name).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; with None as the tokenizer does it, but no second BOS before a text that begins with one."""
        if add_special_tokens is None:
            ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            prefix = next((token for token in ids if token is not None), None)
            doubled = prefix is not None and string.startswith(self.tokenizer.decode([prefix]))
            return list(self.tokenizer.encode(string, add_special_tokens=not doubled))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text; a system turn that the template refuses is left out, with a warning.

        Raises:
            ValueError: no chat template, or one that refuses the chat.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(f"{self.engine.name} has no chat template: leave out --apply_chat_template.")
        settings = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
            **self._template_options,
        }
        try:
            return self.tokenizer.apply_chat_template(chat_history, **settings)
        except TemplateError as error:
            rest = [turn for turn in chat_history if turn["role"] != "system"]
            if len(rest) == len(chat_history):
                raise ValueError(f"the chat template of {self.engine.name} refuses this chat: {error}") from error
            self._tell(f"the chat template of {self.engine.name} refuses system turns: they are left out.")
            return self.apply_chat_template(rest, add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        return {
            "model_num_parameters": self.engine.parameter_count,
            "szilard_engine": self.engine.kind,
            "szilard_method": "greedy, or sampling where a task asks for it"
            if self.method is None
            else str(self.method),
        }

    # ---- likelihoods -----------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """ln p(continuation | context) in nats and whether greedy decoding would write it, per request, in order.

        Raises:
            ValueError: a continuation that is empty or does not fit into the window; before any work.
        """
        by_context: dict[tuple[int, ...], list[int]] = {}
        cut = 0
        for index, (_texts, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self._read_at_most:
                raise ValueError(
                    f"a continuation has {len(continuation)} tokens, but {self.engine.name} takes 1 to "
                    f"{self._read_at_most}."
                )
            whole = (list(context) or [self.prefix_token_id]) + list(continuation)
            kept = whole[-(self._read_at_most + 1) :]
            cut += len(kept) < len(whole)
            by_context.setdefault(tuple(kept[: -len(continuation)]), []).append(index)
        self._tell_cut(cut, len(requests))
        shaped = self.method is not None and type(self.method).shaping is not Method.shaping
        if self.method is not None and not shaped and self.method.slug not in {"greedy", "sampling"}:
            self._tell(
                f"likelihoods are those of the model itself: the method '{self.method.slug}' acts only while text is "
                "written, in generation tasks."
            )
        answers: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), desc="Log-likelihoods", disable=disable_tqdm) as bar:
            for key in sorted(by_context, key=len, reverse=True):
                members = by_context[key]
                continuations = [requests[index][2] for index in members]
                found, _cost = log_likelihoods(self.engine, torch.tensor(key), continuations, self.method, raw=True)
                for index, likelihood in zip(members, found, strict=True):
                    answers[index] = (likelihood.total, likelihood.is_greedy)
                    if (texts := requests[index][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, answers[index])
                bar.update(len(members))
        return [answers[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p(text) in nats, each text in windows that the model can read; every token counts once."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._read_at_most,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append((None, context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (total, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[number] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # ---- text ------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the method writes after each context, up to the first stop; in the order of the requests.

        Requests with the same settings run together, the longest first.

        Raises:
            ValueError: settings that the engine does not know, or no room for a context beside the new tokens.
        """
        by_settings: dict[str, list[int]] = {}
        contexts = []
        for index, request in enumerate(requests):
            context, settings = request.args
            contexts.append(self.tok_encode(context) or [self.prefix_token_id])
            by_settings.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(index)
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="Generation", disable=disable_tqdm) as bar:
            for members in by_settings.values():
                settings = requests[members[0]].args[1]
                room = self.max_length - self._new_tokens(settings)
                if room < 1:
                    raise ValueError(
                        f"max_gen_toks={self._new_tokens(settings)} leaves no room for a context: max_length of "
                        f"{self.engine.name} is {self.max_length}."
                    )
                self._tell_cut(sum(len(contexts[index]) > room for index in members), len(members))
                waiting = sorted(members, key=lambda index: -len(contexts[index]))
                while waiting:
                    chosen = waiting[: self._batch]
                    try:
                        written = self._write([contexts[index][-room:] for index in chosen], settings)
                    except torch.OutOfMemoryError:
                        if self.batch_size is not None or len(chosen) == 1:
                            raise
                        self._batch = len(chosen) // 2
                        continue
                    waiting = waiting[len(chosen) :]
                    for index, text in zip(chosen, written, strict=True):
                        texts[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    bar.update(len(chosen))
        return [texts[index] for index in range(len(requests))]

    def _write(self, contexts: list[list[int]], settings: Mapping[str, Any]) -> list[str]:
        """One batch of contexts with the same settings."""
        method, sampling = self._method_for(settings)
        until = settings.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        if self.eot_token_id is not None:  # a chat model may end its turn with a token that its settings do not name
            stops.append(self.tokenizer.decode([self.eot_token_id]))
        results = self.engine.generate(
            [torch.tensor(context) for context in contexts],
            method,
            max_new_tokens=self._new_tokens(settings),
            raw=True,
            trace=False,
            stop=stops or None,
            **{name: value for name, value in settings.items() if name not in _HANDLED},
            **sampling,
        )
        return [self._answer(result.text, stops) for result in results]

    def _answer(self, text: str, stops: list[str]) -> str:
        """What a task gets to see: no thought, and nothing from the first stop on."""
        if self._think_end:
            text = text.split(self._think_end)[-1].lstrip()
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]

    def _new_tokens(self, settings: Mapping[str, Any]) -> int:
        return int(next((settings[name] for name in _LENGTHS if settings.get(name) is not None), self.max_gen_toks))

    def _method_for(self, settings: Mapping[str, Any]) -> tuple[str | Method, dict[str, Any]]:
        """The method for a task's settings, and the sampling settings it is given: a method that was chosen wins."""
        temperature = settings.get("temperature")
        draws = settings.get("do_sample")
        draws = bool(temperature) if draws is None else bool(draws) and temperature != 0
        given = {name: settings[name] for name in _SAMPLING if settings.get(name) is not None}
        sampling = {"do_sample": True, **given} if draws else {}
        beams = int(settings.get("num_beams") or 1)
        if self.method is None:
            if beams > 1:
                return make_method("beam-search", {"beams": beams}), {}
            return ("sampling", sampling) if draws else ("greedy", {})
        if beams > 1:
            self._tell(f"the task's num_beams={beams} does not act: the method '{self.method}' was chosen.")
        if self.method.slug == "sampling" and not self.method.changed_options():
            return "sampling", sampling
        if draws and (self.method.slug.partition("+")[0] == "sampling" or not self.method.honours_do_sample):
            self._tell(f"the task's sampling settings do not act: the method '{self.method}' was chosen.")
            return self.method, {}
        return self.method, sampling

    # ---- messages --------------------------------------------------------------------------------------------

    def _tell_cut(self, cut: int, total: int) -> None:
        if cut:
            _log.warning(
                "%d of %d contexts are too long for max_length=%d of %s and lose their beginning.",
                *(cut, total, self.max_length, self.engine.name),
            )

    def _tell(self, text: str) -> None:
        """A warning, once."""
        if text not in self._told:
            self._told.add(text)
            _log.warning(text)


if "szilard" not in MODEL_REGISTRY:  # else the harness has read the entry point
    register_model("szilard")(SzilardLM)


def main() -> None:
    """The harness's own command line, with `--model szilard` known to it."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
