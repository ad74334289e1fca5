"""llama.cpp's samplers and habits that bobot does not have, in any body: refused by name unless
their value asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from bobot.chat.protocol import ParameterError
from bobot.server.wire import refuse_unsupported, unsupported_parameter

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "dynatemp_range": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "mirostat": (0,),
    "n_indent": (0,),
    "t_max_predict_ms": (-1, 0),
    "min_keep": (0,),
    "lora": ([],),
    "samplers": (),
    "grammar_lazy": (False,),
}
"""Name -> values that ask for nothing. The other numbers of these samplers (dry_base ...) mean
nothing without them."""


class LlamaSamplers(Struct, kw_only=True):
    repeat_last_n: Annotated[int, Meta(ge=-1)] | None = None
    top_n_sigma: float | None = None
    adaptive_target: float | None = None
    typical_p: float | None = None
    dynatemp_range: float | None = None
    dry_multiplier: float | None = None
    xtc_probability: float | None = None
    mirostat: int | None = None
    n_indent: int | None = None
    t_max_predict_ms: int | None = None
    min_keep: int | None = None
    lora: Any = None
    samplers: Any = None
    grammar_lazy: bool | None = None
    return_progress: bool | None = None


def refuse_samplers(body: LlamaSamplers, *, has_penalty: bool) -> None:
    """ParameterError. `has_penalty`: something is penalized that was said before."""
    refuse_unsupported(body, UNSUPPORTED, lenient=False)
    if body.top_n_sigma is not None and body.top_n_sigma > 0:
        raise unsupported_parameter("top_n_sigma")
    if body.adaptive_target is not None and body.adaptive_target >= 0:
        raise unsupported_parameter("adaptive_target")
    if has_penalty and body.repeat_last_n not in (None, -1):
        raise ParameterError(
            "{param} is {value}; it must be -1: penalties look at the whole text here.",
            param="repeat_last_n",
            code="unsupported_parameter",
            value=body.repeat_last_n,
        )
