"""From one row of logits to the next token: penalties, filters, and a draw that any batch repeats.

Pure functions over one row, float32 (V,). A token that is ruled out has -inf. Rows are treated one
by one and the noise is a hash of (key, token id), so a draw depends on its own row and key only,
never on the batch. The filters follow Hugging Face's order: temperature, top_k, top_p, min_p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bobot import kernels

NEVER = float("-inf")


def penalize(
    logits_V: Tensor,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
) -> Tensor:
    """A changed copy of the logits.

    Tokens of prompt and output: z / r if z > 0 else z * r (repetition, arXiv:1909.05858). Then,
    for a token that occurs c times in the output: z - presence - c * frequency (OpenAI). Then +
    logit_bias.
    """
    scores_V = logits_V.clone()
    device = logits_V.device
    if repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt_ids, *output_ids}), device=device)
        scores = scores_V[seen]
        scores_V[seen] = torch.where(
            scores > 0, scores / repetition_penalty, scores * repetition_penalty
        )
    if output_ids and (presence_penalty or frequency_penalty):
        seen, counts = torch.tensor(output_ids, device=device).unique(return_counts=True)
        scores_V[seen] -= presence_penalty + frequency_penalty * counts
    if logit_bias:
        ids = torch.tensor(list(logit_bias), device=device)
        scores_V[ids] += torch.tensor(list(logit_bias.values()), device=device)
    return scores_V


def best_ids(logits_RV: Tensor) -> list[int | None]:
    """The most likely token of each row, the first on ties; None where a logit is not finite."""
    if _has_kernels(logits_RV):
        best = kernels.best(logits_RV.contiguous().numpy())
        return [None if token_id < 0 else token_id for token_id in best]
    finite = torch.isfinite(logits_RV).all(dim=-1).tolist()
    best = logits_RV.argmax(dim=-1).tolist()
    return [i if is_finite else None for i, is_finite in zip(best, finite, strict=True)]


def sample(
    logits_V: Tensor, key: int, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> int:
    """One token id drawn after temperature (above 0), top_k, top_p and min_p, for a row in which
    NaN and infinity do not occur. What is computed is `sample_reference`; see `kernels.sample`.
    """
    if not _has_kernels(logits_V):
        return sample_reference(
            logits_V, key, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
        )
    return kernels.sample(
        logits_V.contiguous().numpy(),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        key=key,
    )


def _has_kernels(logits: Tensor) -> bool:
    is_plain = logits.dtype == torch.float32 and not logits.requires_grad
    return kernels.available and logits.device.type == "cpu" and is_plain


def sample_reference(
    logits_V: Tensor, key: int, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> int:
    """The definition of `sample`, step by step."""
    kept_V = filtered(logits_V, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return draw(kept_V, key)


def filtered(
    logits_V: Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> Tensor:
    """The logits that `sample` draws from, -inf where a token has no chance."""
    logits_V = apply_temperature(logits_V, temperature)
    logits_V = keep_top_k(logits_V, top_k)
    logits_V = keep_top_p(logits_V, top_p)
    return keep_min_p(logits_V, min_p)


def apply_temperature(logits_V: Tensor, temperature: float) -> Tensor:
    """(z - max z) / temperature: the best token gets 0, so that no small temperature overflows."""
    return (logits_V - logits_V.max()) / temperature


def keep_top_k(logits_V: Tensor, top_k: int) -> Tensor:
    """Only the k largest, and those equal to the k-th; 0 keeps all."""
    if not 0 < top_k < logits_V.shape[0]:
        return logits_V
    kth = logits_V.topk(top_k).values[-1]
    return logits_V.masked_fill(logits_V < kth, NEVER)


def keep_top_p(logits_V: Tensor, top_p: float) -> Tensor:
    """The smallest set of most likely tokens that holds at least `top_p`; lower ids first on ties.

    Tokens below (1 - top_p) / V hold less than 1 - top_p together, so they are outside the set and
    need not be sorted; half of that bound leaves room for rounding.
    """
    if top_p >= 1.0:
        return logits_V
    probs_V = logits_V.softmax(-1)
    candidates = (probs_V >= (1.0 - top_p) / (2 * len(probs_V))).nonzero().squeeze(-1)
    probs, order = probs_V[candidates].double().sort(descending=True, stable=True)
    inside = probs.cumsum(0) - probs < top_p
    inside[0] = True
    kept = candidates[order[inside]]
    return torch.full_like(logits_V, NEVER).index_copy_(0, kept, logits_V[kept])


def keep_min_p(logits_V: Tensor, min_p: float) -> Tensor:
    """Only tokens at least `min_p` times as likely as the best one (arXiv:2407.01082)."""
    if min_p <= 0.0:
        return logits_V
    probs_V = logits_V.softmax(-1)
    return logits_V.masked_fill(probs_V < min_p * probs_V.max(), NEVER)


def draw(logits_V: Tensor, key: int) -> int:
    """One token id drawn from softmax(logits): argmax of z + g with Gumbel noise g = -log(-log u).

    The noise of a token depends on `key` (signed 64 bits) and the token's id alone. A tiny change
    of the logits therefore changes the draw only where two tokens nearly tie.
    """
    ids = (logits_V > NEVER).nonzero().squeeze(-1)
    scores = logits_V[ids].double() - torch.log(-torch.log(uniform(ids, key)))
    return int(ids[scores.argmax()])


def uniform(counters: Tensor, key: int) -> Tensor:
    """Float64 in (0, 1) for each int64 counter: splitmix64 (doi:10.1145/2660193.2660195), 52 bits
    kept.
    """
    bits = key + (counters + 1) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift_right(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(0x94D049BB133111EB)
    bits = bits ^ _shift_right(bits, 31)
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def _shift_right(bits: Tensor, num: int) -> Tensor:
    """A shift that fills with zeros; torch's int64 shift copies the sign."""
    return (bits >> num) & ((1 << (64 - num)) - 1)


def _signed(word: int) -> int:
    """The same 64 bits as torch's int64 reads them."""
    return word - (1 << 64) if word >= 1 << 63 else word
