"""Who sees whom, and where it stands, while latent tokens are made: LTIM, LTSuM and dual-track positions.

Deng et al. 2025, arXiv 2510.15522 (second version: "LLM Latent Reasoning as Chain of Superposition").

A chain of thought is cut into chunks S_1..S_N of r tokens; the latent token z_i (in the encoder L_i) stands for S_i.

    encoder:  Q <think> S_1 L_1 S_2 L_2 ... S_N L_N </think>
    decoder:  Q <think> z_1 S_2 z_2 S_3 ... S_N z_N </think> answer         (S_1 is left out: nothing precedes it)

Every slot has a role and a chunk, int64 [batch, slots] each. They come from the layout and never from token ids, so a
padding token that is also the end of the answer stays what it is. `chunk` is the number i of a latent token; of a text
token the latent token that it follows (S_{i+1} has chunk i); of the answer N; before the chain 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

PADDING, PREFIX, TEXT, LATENT, ANSWER = -1, 0, 1, 2, 3


def chunks(chain: Sequence[int], rate: int) -> list[list[int]]:
    """A chain of thought cut every `rate` tokens (r); the last chunk may be shorter."""
    return [list(chain[start : start + rate]) for start in range(0, len(chain), rate)]


def insert_every(chain: Sequence[int], rate: int, latent: int) -> tuple[list[int], int]:
    """The chain with a latent token behind every chunk, and the number N of chunks.

    Args:
        chain: token ids.
        rate: r, tokens of a chunk.
        latent: the id that is put in.
    """
    cut = chunks(chain, rate)
    return [token for chunk in cut for token in (*chunk, latent)], len(cut)


def causal_mask(role: torch.Tensor) -> torch.Tensor:
    """Every token sees the tokens before it and itself; padding sees nothing and is not seen.

    Args:
        role: int64 [batch, slots].

    Returns:
        Query sees key, bool [batch, query, key].
    """
    slots = role.shape[1]
    real = role != PADDING
    causal = torch.ones(slots, slots, dtype=torch.bool, device=role.device).tril()
    return causal & real[:, :, None] & real[:, None, :]


def induction_mask(role: torch.Tensor) -> torch.Tensor:
    """LTIM: causal, but nobody, text or latent token, sees an earlier latent token. So every L_i sums up its prefix.

    Args:
        role: of the encoder's slots, int64 [batch, slots].

    Returns:
        Query sees key, bool [batch, query, key].
    """
    itself = torch.eye(role.shape[1], dtype=torch.bool, device=role.device)
    return causal_mask(role) & ((role != LATENT)[:, None, :] | itself)


def supervision_mask(role: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
    """LTSuM: what is known of the past goes through the latent tokens.

    The prefix is causal; z_i sees the prefix and the latent tokens up to itself; a token of S_{i+1} sees z_i and its
    own chunk alone; the answer sees the prefix, every latent token, and itself.

    Args:
        role, chunk: of the decoder's slots, int64 [batch, slots].

    Returns:
        Query sees key, bool [batch, query, key].
    """
    query, key = role[:, :, None], role[:, None, :]
    alike = chunk[:, :, None] == chunk[:, None, :]
    own = alike & ((key == LATENT) | (key == TEXT))
    allowed = torch.where(query == TEXT, own, key != TEXT)
    return causal_mask(role) & allowed  # causality leaves no answer to z, and neither to the prefix


def dual_track_positions(role: torch.Tensor) -> torch.Tensor:
    """Positions under which latent tokens are neighbours, as they are when the model writes the chain itself.

    Prefix, latent tokens and answer count on as if no text stood between them; a chunk counts on from its latent token.

    Args:
        role: of the decoder's slots, int64 [batch, slots]; padding stands on the right.

    Returns:
        int64 [batch, slots]; padding has positions, too, which mean nothing.
    """
    track = (role != TEXT).cumsum(1) - 1  # of a text token: that of its latent token
    slots = torch.arange(role.shape[1], device=role.device).expand_as(role)
    latest = torch.where(role != TEXT, slots, 0).cummax(1).values
    return track + slots - latest


def plain_positions(role: torch.Tensor) -> torch.Tensor:
    """0, 1, 2, ... in every row, int64 [batch, slots]; padding stands on the right."""
    return torch.arange(role.shape[1], device=role.device).expand_as(role)


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask that every attention with a bias takes: 0 where there is something to see, else the lowest finite number.

    A query that sees nothing (padding) sees itself, so that no softmax is over nothing in any precision.

    Args:
        allowed: bool [batch, query, key].

    Returns:
        [batch, 1, query, key].
    """
    blind = ~allowed.any(-1)
    allowed = allowed | (blind[:, :, None] & torch.eye(allowed.shape[1], dtype=torch.bool, device=allowed.device))
    out = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return out.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
