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
    if sinks_N is not None or spec.logit_softcap is not None or hidden_S is not None:
        return attention_reference(
            q_TNH,
            k_SKH,
            v_SKH,
            spec,
            first_query=first_query,
            sinks_N=sinks_N,
            hidden_S=hidden_S,
        )
    num_queries = q_TNH.shape[0]
    last = first_query + num_queries
    window = spec.sliding_window
    first_key = 0 if window is None else max(0, first_query + 1 - window)
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
    """The definition, step by step, softmax in float32. A sink is one more logit whose weight is
    dropped. A query that sees no key at all gets the mean of the values up to it.
    """
    group = spec.num_heads // spec.num_kv_heads
    last = first_query + q_TNH.shape[0]
    k_SNH = k_SKH[:last].repeat_interleave(group, dim=1)
    v_SNH = v_SKH[:last].repeat_interleave(group, dim=1)
    scores_NTS = torch.einsum("tnh,snh->nts", q_TNH, k_SNH).float() * spec.scale
    if spec.logit_softcap is not None:
        scores_NTS = spec.logit_softcap * torch.tanh(scores_NTS / spec.logit_softcap)
    mask_TS = visible(q_TNH.shape[0], first_query, spec.sliding_window, q_TNH.device)
    if hidden_S is not None:
        scores_NTS = scores_NTS.masked_fill(hidden_S[:last], torch.finfo(torch.float32).min)
    scores_NTS = scores_NTS.masked_fill(~mask_TS, float("-inf"))
    if sinks_N is not None:
        sink_NT1 = sinks_N.float()[:, None, None].expand(-1, scores_NTS.shape[1], 1)
        scores_NTS = torch.cat((scores_NTS, sink_NT1), dim=-1)
    weights_NTS = scores_NTS.softmax(-1)[..., :last].to(v_SNH.dtype)
    return torch.einsum("nts,snh->tnh", weights_NTS, v_SNH)
