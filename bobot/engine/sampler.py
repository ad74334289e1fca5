"""From the logits of a step to the next tokens of each sequence. Stop rules and counters:
engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from bobot.engine.constraint import Masks
from bobot.engine.request import Chunk, Sequence
from bobot.engine.sampling_params import SamplingParams
from bobot.errors import RequestError
from bobot.ops.sampling import NEVER, best_ids, filtered, keep_top_k, penalize, sample


@dataclass(frozen=True)
class Choice:
    """The next token of one sequence, or the reason why there is none."""

    token_id: int | None
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None
    error: RequestError | None = None


def choose(
    logits_RV: Tensor, chunks: Rows[Chunk], masks: Masks | None = None
) -> list[list[Choice]]:
    """The next tokens of each chunk's sequence: one, and one more for each draft that was right.

    The rows of a chunk stand one behind the other: the first decides the token behind the last
    known one, the next the token behind the first draft. A draft is right when it is the very token
    that is chosen in its place; what stands behind a wrong one is of no use. So the tokens are
    those of plain decoding, at any temperature.

    Each row is sampled alone, with noise that depends on its own (seed, index, position): the same
    logits give the same token in any batch. What can still differ between batches is the logits
    themselves, by the rounding of the matrix products (about 1e-6 in float32, 1e-2 in bfloat16); a
    token changes only where two candidates are closer than that.

    Tokens that a mask rules out have no chance; they count in the log-probabilities.
    """
    if not chunks:
        return []
    best = best_ids(logits_RV)
    choices: list[list[Choice]] = []
    row = 0
    for chunk in chunks:
        choices.append([])
        allowed_RV = _joined(masks, chunk)
        if isinstance(allowed_RV, RequestError):
            choices[-1].append(Choice(None, error=allowed_RV))
            row += 1 + len(chunk.draft_ids)
            continue
        for num_right, draft_id in enumerate((*chunk.draft_ids, None)):
            drafts = chunk.draft_ids[:num_right]
            at = row + num_right
            allowed_V = allowed_RV[num_right] if allowed_RV else None
            choice = _choose_one(logits_RV[at], best[at], chunk.sequence, drafts, allowed_V)
            choices[-1].append(choice)
            if choice.token_id != draft_id:
                break
        row += 1 + len(chunk.draft_ids)
    return choices


def _joined(masks: Masks | None, chunk: Chunk) -> list[Tensor] | RequestError:
    """The masks of the chunk's rows, none where it is not constrained."""
    if not masks or chunk not in masks:
        return []
    try:
        return masks[chunk].result()
    except RequestError as error:
        return error


def _choose_one(
    logits_V: Tensor,
    best: int | None,
    sequence: Sequence,
    drafts: tuple[int, ...],
    allowed_V: Tensor | None,
) -> Choice:
    """The token behind those of the sequence and the `drafts` that were right."""
    if best is None:
        return Choice(None, error=_not_finite(logits_V, sequence.num_tokens + len(drafts)))
    params = sequence.request.params
    is_best = params.is_greedy and not params.changes_logits
    if is_best and (allowed_V is None or allowed_V[best]) and not params.drawn_logprobs:
        return _with_logprobs(logits_V, best, params.logprobs)
    scores_V = _scores(logits_V, sequence, drafts, params, allowed_V)
    token_id = _sample(scores_V, sequence, drafts, params)
    if params.drawn_logprobs and params.logprobs is not None:
        logits_V = _drawn_from(scores_V, params)
    return _with_logprobs(logits_V, token_id, params.logprobs)


def _scores(
    logits_V: Tensor,
    sequence: Sequence,
    drafts: tuple[int, ...],
    params: SamplingParams,
    allowed_V: Tensor | None,
) -> Tensor:
    """The logits after penalties and bias; those that the mask rules out are -inf."""
    if params.changes_logits:
        logits_V = penalize(
            logits_V,
            sequence.request.prompt_ids,
            [*sequence.output_ids, *drafts],
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logit_bias=params.logit_bias,
        )
    if allowed_V is not None:
        logits_V = logits_V.masked_fill(~allowed_V.to(logits_V.device), NEVER)
    return logits_V


def _drawn_from(scores_V: Tensor, params: SamplingParams) -> Tensor:
    """What `_sample` draws from: its softmax is the distribution of the token."""
    if params.is_greedy:
        return keep_top_k(scores_V, 1)
    return filtered(
        scores_V,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
    )


def _sample(
    scores_V: Tensor, sequence: Sequence, drafts: tuple[int, ...], params: SamplingParams
) -> int:
    if params.is_greedy:
        return int(scores_V.argmax())
    return sample(
        scores_V,
        sequence.token_key(sequence.num_tokens + len(drafts)),
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
    )


def _with_logprobs(logits_V: Tensor, token_id: int, num_top: int | None) -> Choice:
    if num_top is None:
        return Choice(token_id)
    logprobs_V = logits_V.log_softmax(dim=-1)
    values, ids = logprobs_V.topk(min(num_top, len(logprobs_V)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    top = tuple((other, value) for other, value in pairs if value > NEVER)
    return Choice(token_id, float(logprobs_V[token_id]), top)


def _not_finite(logits_V: Tensor, num_tokens: int) -> RequestError:
    return RequestError(
        "After {num_tokens} tokens {bad} of the model's {vocab_size} logits are not finite.",
        hint="The weights may be damaged, or need a wider dtype: try float32.",
        bad=int((~torch.isfinite(logits_V)).sum()),
        vocab_size=len(logits_V),
        num_tokens=num_tokens,
    )
