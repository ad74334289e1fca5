"""Causal attention of one sequence: the plain definition, and torch's fused kernel where it says
the same.

T queries, S keys; query t stands at position `first_query + t` of the sequence, key s at position
s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SCORES = 1 << 24
"""Scores held at once where attention is computed by its definition: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """The shape and the rules of one layer's attention; also describes what its cache must hold."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    scale: float
    v_is_k_prefix: bool = False
    """Values are the first v_head_dim elements of the keys and are stored once (latent attention).
    """
    sliding_window: int | None = None
    """Query at p sees keys in (p - sliding_window, p]; None means all keys up to p."""
    logit_softcap: float | None = None
    """Scores become cap * tanh(score / cap) before the softmax."""

    @property
    def cached_per_token(self) -> int:
        """Numbers that the cache of one layer holds for a token."""
        return self.num_kv_heads * (self.head_dim + self.v_head_dim * (not self.v_is_k_prefix))


def attention(
    q_TNH: Tensor,
    k_SKH: Tensor,
    v_SKH: Tensor,
    spec: AttentionSpec,
    *,
    first_query: int,
    sinks_N: Tensor | None = None,
    hidden_S: Tensor | None = None,
) -> Tensor:
    """Causal attention of T consecutive queries over S keys: (T, N, v_head_dim), in q's dtype.

    `first_query + T` must not exceed S: keys past a query are never seen. Keys that no query can
    see because of the sliding window may be anything. `hidden_S` marks keys that no query sees.
    """
    num_queries = q_TNH.shape[0]
    last = first_query + num_queries
    window = spec.sliding_window
    first_key = 0 if window is None else max(0, first_query + 1 - window)
    has_own_rule = sinks_N is not None or spec.logit_softcap is not None or hidden_S is not None
    if has_own_rule or spec.head_dim != spec.v_head_dim:
        return _attention_in_pieces(
            q_TNH,
            k_SKH[first_key:last],
            v_SKH[first_key:last],
            spec,
            first_query - first_key,
            sinks_N,
            None if hidden_S is None else hidden_S[first_key:last],
        )
    k_KSH, v_KSH = (x[first_key:last].transpose(0, 1).unsqueeze(0) for x in (k_SKH, v_SKH))
    if num_queries == 1:
        return _attention_of_one(q_TNH, k_KSH, v_KSH, spec)
    is_plain = first_query == 0 and (window is None or last <= window)
    mask_TS = None
    if not is_plain:
        mask_TS = visible(num_queries, first_query - first_key, window, q_TNH.device)
    out_NTH = F.scaled_dot_product_attention(
        q_TNH.transpose(0, 1).unsqueeze(0),
        k_KSH,
        v_KSH,
        attn_mask=mask_TS,
        is_causal=is_plain,
        scale=spec.scale,
        enable_gqa=spec.num_kv_heads != spec.num_heads,
    )
    return out_NTH.squeeze(0).transpose(0, 1)


def _attention_in_pieces(
    q_TNH: Tensor,
    k_SKH: Tensor,
    v_SKH: Tensor,
    spec: AttentionSpec,
    first_query: int,
    sinks_N: Tensor | None,
    hidden_S: Tensor | None,
) -> Tensor:
    """The definition for some queries at a time, so that their scores take little memory."""
    num_rows = max(1, MAX_SCORES // (spec.num_heads * k_SKH.shape[0]))
    outputs = [
        attention_reference(
            q_RNH,
            k_SKH,
            v_SKH,
            spec,
            first_query=first_query + number * num_rows,
            sinks_N=sinks_N,
            hidden_S=hidden_S,
        )
        for number, q_RNH in enumerate(q_TNH.split(num_rows))
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attention_of_one(q_1NH: Tensor, k_KSH: Tensor, v_KSH: Tensor, spec: AttentionSpec) -> Tensor:
    """One query that sees every key: the heads of a group become the rows of one product.

    The keys are then read once per group, not once per head: 8 to 15 times faster in bfloat16 on
    a CPU (1024 keys, 32 heads over 8) than `enable_gqa`.
    """
    q_KGH = q_1NH.view(1, spec.num_kv_heads, -1, spec.head_dim)
    out_KGH = F.scaled_dot_product_attention(q_KGH, k_KSH, v_KSH, scale=spec.scale)
    return out_KGH.reshape(1, spec.num_heads, spec.v_head_dim)


def visible(num_queries: int, first_query: int, window: int | None, device: torch.device) -> Tensor:
    """True where query t may see key s: bool (T, first_query + T)."""
    q_T1 = torch.arange(first_query, first_query + num_queries, device=device)[:, None]
    k_S = torch.arange(first_query + num_queries, device=device)
    mask_TS = k_S <= q_T1
    return mask_TS if window is None else mask_TS & (k_S > q_T1 - window)


def attention_reference(
    q_TNH: Tensor,
    k_SKH: Tensor,
    v_SKH: Tensor,
    spec: AttentionSpec,
    *,
    first_query: int,
    sinks_N: Tensor | None = None,
    hidden_S: Tensor | None = None,
) -> Tensor:
    """The definition, step by step, in float32. A sink is one more logit whose weight is dropped.
    A query that sees no key at all gets the mean of the values up to it.
    """
    last = first_query + q_TNH.shape[0]
    q_TKGH = q_TNH.unflatten(1, (spec.num_kv_heads, -1)).float()
    k_SKH, v_SKH = k_SKH[:last].float(), v_SKH[:last].float()
    scores_NTS = torch.einsum("tkgh,skh->kgts", q_TKGH, k_SKH).flatten(0, 1) * spec.scale
    if spec.logit_softcap is not None:
        scores_NTS = spec.logit_softcap * torch.tanh(scores_NTS / spec.logit_softcap)
    if hidden_S is not None:
        scores_NTS = scores_NTS.masked_fill(hidden_S[:last], torch.finfo(torch.float32).min)
    mask_TS = visible(q_TNH.shape[0], first_query, spec.sliding_window, q_TNH.device)
    scores_NTS = scores_NTS.masked_fill(~mask_TS, float("-inf"))
    if sinks_N is not None:
        sink_NT1 = sinks_N.float()[:, None, None].expand(-1, scores_NTS.shape[1], 1)
        scores_NTS = torch.cat((scores_NTS, sink_NT1), dim=-1)
    weights_KGTS = scores_NTS.softmax(-1)[..., :last].unflatten(0, (spec.num_kv_heads, -1))
    out_TKGH = torch.einsum("kgts,skh->tkgh", weights_KGTS, v_SKH)
    return out_TKGH.flatten(1, 2).to(q_TNH.dtype)
