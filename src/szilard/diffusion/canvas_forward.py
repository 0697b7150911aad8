"""What a round of a canvas asks of the model: logits, with guidance and through the store, and proposals from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from szilard.diffusion.cache import Plan
from szilard.diffusion.canvas_store import CanvasStore

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState

NAN_LOGITS = "the model's logits hold NaN: nothing can be chosen from them; check the weights and their precision."


class CanvasForward:
    """Forwards of a state's canvases; they are counted in its cost.

    Args:
        state: whose rows are run, under its method's guidance and bans.

    Attributes:
        store: keys and values of the columns, from the first forward under a cache on.
    """

    def __init__(self, state: DenoisingState) -> None:
        self.state = state
        self.store: CanvasStore | None = None

    def ban(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits without what may not be proposed (written in place)."""
        config = self.state.model.config
        if config.forbid_mask:
            logits[..., config.mask_token_id] = -torch.inf
        if self.state.method.eos == "forbid" and config.ends:
            logits[..., list(config.ends)] = -torch.inf
        return logits

    def logits(self, rows: torch.Tensor, columns: torch.Tensor, plan: Plan | None) -> torch.Tensor:
        """Logits of columns of some rows, guidance included, [rows, n, vocab] (a tensor of our own)."""
        everyone = len(rows) == self.state.batch_size
        tokens, real = (
            (self.state.tokens, self.state.real) if everyone else (self.state.tokens[rows], self.state.real[rows])
        )
        weight = self.state.method.guidance
        if weight:
            blind = tokens.clone()
            blind[:, : self.state.prompt_width] = self.state.model.config.mask_token_id
            tokens, real, columns = torch.cat([tokens, blind]), torch.cat([real, real]), torch.cat([columns, columns])
        if plan is None:
            logits = self.state.model.predict(tokens, real, columns)
            new = keys = tokens.shape[1]
        else:
            logits, new, keys = self._stored(rows, everyone, tokens, real, columns, plan, twice=bool(weight))
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        self.count(len(tokens), new, keys)
        if weight:
            conditioned, blind_logits = logits.chunk(2)
            logits = blind_logits + (weight + 1) * (conditioned - blind_logits)
        return logits

    def _stored(
        self,
        rows: torch.Tensor,
        everyone: bool,
        tokens: torch.Tensor,
        real: torch.Tensor,
        columns: torch.Tensor,
        plan: Plan,
        *,
        twice: bool,
    ) -> tuple[torch.Tensor, int, int]:
        """A forward through the store: logits, columns computed per row, keys read per row."""
        model: Any = self.state.model
        batch = self.state.batch_size * (2 if twice else 1)
        if self.store is None:
            self.store = CanvasStore(model.layers, batch, self.state.tokens.shape[1])
        place = None if everyone else torch.cat([rows, rows + self.state.batch_size]) if twice else rows
        if plan.computed is None:
            self.store.aim_at_all(place)
            return model.compute(tokens, real, columns, store=self.store), tokens.shape[1], tokens.shape[1]
        computed, visible = plan.computed, plan.visible
        if twice:
            computed = torch.cat([computed, computed])
            visible = None if visible is None else torch.cat([visible, visible])
        self.store.aim_at_some(place, visible)
        logits = model.compute(tokens, real, columns, store=self.store, columns=computed)
        keys = self.state.tokens.shape[1] if self.store.read is None else self.store.read.shape[1]
        return logits, computed.shape[1], keys

    def count(self, rows: int, new: int, keys: int) -> None:
        """Add a forward to the counts: `new` columns computed in each row, each of which read `keys`."""
        size, cost = self.state.model.size, self.state.cost
        cost.forward_passes[size.name] = cost.forward_passes.get(size.name, 0) + 1
        cost.tokens[size.name] = cost.tokens.get(size.name, 0) + rows * new
        cost.layer_tokens[size.name] = cost.layer_tokens.get(size.name, 0) + rows * new * size.layers
        cost.flops += rows * new * (2 * size.layer_parameters + 4 * size.attention_width * size.layers * keys)
        cost.count("row_rounds", rows)
        if self.store is not None:
            cost.kv_bytes_held = max(cost.kv_bytes_held, self.store.bytes_held)
            cost.kv_bytes_read += rows * keys * size.kv_bytes_per_token

    def draw(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Proposals and their probabilities, [rows, n] each, and the logits whose these are."""
        state, drawn_from = self.state, logits
        if state.warpers:
            flat = logits.flatten(0, 1)
            text = state.tokens.new_zeros(len(flat), 0)  # filters look at the scores alone
            scores = flat / max(state.temperature, 1e-6) if state.temperature else flat
            drawn_from = state.warpers(text, scores)  # type: ignore[arg-type]
            drawn_from = drawn_from.view(logits.shape)
        elif state.temperature and state.method.tempered:
            drawn_from = logits / state.temperature
        if state.temperature:
            # Gumbel-max in float64: coarser noise measurably hurts. Scaled logits are not scaled again.
            scale = 1.0 if drawn_from is not logits else state.temperature
            noise = torch.rand(logits.shape, generator=state.generator, device=logits.device, dtype=torch.float64)
            tokens = (drawn_from.double() - scale * noise.log_().neg_().log_()).argmax(-1)
            source = drawn_from if state.method.tempered else logits
        else:
            source, tokens = drawn_from if state.method.tempered else logits, drawn_from.argmax(-1)
        confidence = source.softmax(-1).gather(-1, tokens[..., None])[..., 0]
        if bool(confidence.isnan().any()):
            raise ValueError(NAN_LOGITS)
        return tokens, confidence, source
