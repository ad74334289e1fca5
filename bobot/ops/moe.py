"""A mixture of experts (arXiv:1701.06538): each token passes a few SwiGLU networks of many.

Axes: T tokens, E experts, A active experts of a token, D hidden, F intermediate.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mixture_of_experts(
    x_TD: Tensor,
    experts_TA: Tensor,
    weights_TA: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """For each token sum over a of weights[a] * down(silu(gate(x)) * up(x)) of expert a: (T, D).

    Expert by expert over the tokens that chose it; an expert that nobody chose is not read.
    """
    out_TD = x_TD.new_zeros(x_TD.shape)
    for e in experts_TA.unique().tolist():
        rows, slots = (experts_TA == e).nonzero(as_tuple=True)
        x = x_TD[rows]
        hidden = F.silu(F.linear(x, gate_EFD[e])) * F.linear(x, up_EFD[e])
        out_TD = out_TD.index_add(
            0, rows, F.linear(hidden, down_EDF[e]) * weights_TA[rows, slots, None]
        )
    return out_TD
