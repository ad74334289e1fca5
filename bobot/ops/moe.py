"""A mixture of experts (arXiv:1701.06538): each token passes a few of many small networks.

Axes: T tokens, R the tokens of one expert, A active experts of a token, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def mixture_of_experts(
    x_TD: Tensor,
    experts_TA: Tensor,
    weights_TA: Tensor,
    expert: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """For each token the sum over a of weights[a] * expert(experts[a], token): (T, D).

    `expert(e, x_RD)` is called once for each expert that somebody chose, with the tokens that chose
    it; an expert that nobody chose is not read.
    """
    out_TD = x_TD.new_zeros(x_TD.shape)
    for e in experts_TA.unique().tolist():
        rows, slots = (experts_TA == e).nonzero(as_tuple=True)
        result_RD = expert(e, x_TD[rows]) * weights_TA[rows, slots, None]
        out_TD = out_TD.index_add(0, rows, result_RD)
    return out_TD
