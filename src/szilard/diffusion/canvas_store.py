"""Keys and values of a canvas by their columns, so that some columns are computed anew beside the others' old ones."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class CanvasStore(Cache):
    """A position-addressed store, keys after their rotation. One column more than the canvas takes what is padding.

    Before a forward over all columns nothing needs to be said; before one over some of them `aim` says which are
    computed and which are read.

    Args:
        layers: of the model.
        batch: rows.
        width: columns of the canvas, N.
    """

    def __init__(self, layers: int, batch: int, width: int) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(layers)])
        self.width = width
        self.rows: torch.Tensor | None = None  # of the batch, that the forward is about; None: all
        self.visible: torch.Tensor | None = None  # bool [rows, N] columns that may be read; None: the real ones
        self.written: torch.Tensor | None = None  # columns that are computed, [rows, m]; None: all
        self.read: torch.Tensor | None = None  # columns that are read, [rows, k]; None: all
        self.batch = batch

    def aim_at_all(self, rows: torch.Tensor | None) -> None:
        """The next forward computes every column.

        Args:
            rows: of the batch, that it is about; None: all.
        """
        self.rows, self.visible, self.written, self.read = rows, None, None, None

    def aim_at_some(self, rows: torch.Tensor | None, visible: torch.Tensor | None) -> None:
        """The next forward computes some columns, and reads the visible ones.

        Args:
            rows: of the batch, that it is about; None: all.
            visible: bool [rows, N]; None: all that are real. What is computed must be among them to be seen.
        """
        self.rows, self.visible = rows, visible

    def aim(self, columns: torch.Tensor, real: torch.Tensor) -> torch.Tensor | None:
        """Set what is written and read, and give the mask over what is read, bool [rows, 1, 1, k]; None: all of it."""
        seen = real if self.visible is None else self.visible & real
        self.written = columns
        if self.visible is None:
            self.read = None
            return None if bool(seen.all()) else seen[:, None, None]
        counts = seen.sum(1)
        most = int(counts.max())
        self.read = torch.argsort(~seen, dim=1, stable=True)[:, :most]
        if bool((counts == most).all()):
            return None
        return (torch.arange(most, device=seen.device) < counts[:, None])[:, None, None]

    def narrow(self, width: int) -> None:
        """Forget columns from `width` on."""
        self.width = width

    @property
    def bytes_held(self) -> int:
        """Bytes of keys and values."""
        held = 0
        for layer in self.layers:
            if isinstance(layer, _Layer) and layer.keys is not None:
                held += (layer.keys.numel() + layer.values.numel()) * layer.keys.element_size()
        return held


class _Layer(DynamicLayer):
    """A layer of the store."""

    keys: Any
    values: Any

    def __init__(self, store: CanvasStore) -> None:
        super().__init__()
        self.store = store
        self.keys = self.values = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        store = self.store
        if self.keys is None:
            shape = (
                store.batch,
                key_states.shape[1],
                store.width + 1,
                key_states.shape[3],
            )  # the last: what is padding
            self.keys, self.values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            if store.written is None:
                target = kept if store.rows is None else None
                if target is not None:
                    target[:, :, : store.width] = new
                else:
                    kept[store.rows, :, : store.width] = new
            else:
                rows = _rows(store, kept)[:, None]
                kept[rows, :, store.written] = new.transpose(1, 2)
        if store.written is None:
            return key_states, value_states
        return self._reading(self.keys), self._reading(self.values)

    def _reading(self, kept: torch.Tensor) -> torch.Tensor:
        """What is read of it, [rows, kv heads, k, head size]."""
        store = self.store
        if store.read is None:
            found = kept[:, :, : store.width]
            return found if store.rows is None else found[store.rows]
        return kept[_rows(store, kept)[:, None], :, store.read].transpose(1, 2)

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


def _rows(store: CanvasStore, kept: torch.Tensor) -> torch.Tensor:
    return store.rows if store.rows is not None else torch.arange(len(kept), device=kept.device)
