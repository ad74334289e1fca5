"""The C++ kernels and the choice of the instruction set they run with.

Knows nothing of models. Where the extension is missing, `available` is False and callers use torch;
every kernel has a torch reference that it is tested against.

    out_MN = torch.empty(x_MK.shape[0], weight_bytes.shape[0])
    kernels.linear("Q4_K", x_MK, weight_bytes, out_MN, num_threads=2)

Arrays are NumPy arrays or torch tensors on the CPU, contiguous, used in place without a copy.
Letters: M rows, N output features, K input features.
"""

from __future__ import annotations

import os
from typing import Any

from bobot.errors import NotFoundError, UsageError

try:
    from bobot.kernels import _native
except ImportError:
    _native = None

Array = Any
"""A NumPy array or a torch tensor on the CPU."""

Matrix = tuple[str, Array, Array | None, int, int] | tuple[str, str, int, int, int, Array]
"""Packed rows: format, values, scales or None, rows_per_scale and values_per_scale, as `linear`
takes them. Or tiles: the arguments of `tiles_bytes` and the bytes, uint8 (bytes)."""

available: bool = _native is not None

FORMATS: dict[str, tuple[int, int]] = _native.formats() if _native is not None else {}
"""Name -> values and bytes in a block, of every format that has kernels. Capitals are GGUF's
types, with their scales inside the blocks; mxfp4, int4, int8, nf4, fp4 and float8_e4m3fn have
theirs apart.
"""


EMULATED_AMX = "amx-emulated"
"""The kernels of `amx`, its registers in plain C++: slow, for tests on machines without it."""


def features() -> dict[str, bool]:
    """Whether this machine can run each instruction set that has kernels, fastest first."""
    return {name: usable for name, usable in _kernel_sets().items() if name != EMULATED_AMX}


def can_emulate_amx() -> bool:
    """Whether `force` and BOBOT_ISA may say EMULATED_AMX: it takes AVX-512 and AVX512-BF16."""
    return _kernel_sets().get(EMULATED_AMX, False)


def isa() -> str:
    """The instruction set the kernels use: the one that BOBOT_ISA names, else the fastest.

    Raises UsageError if BOBOT_ISA names one that is unknown or that this machine lacks.
    """
    usable = [name for name, is_usable in features().items() if is_usable]
    asked = os.environ.get("BOBOT_ISA", usable[0])
    if asked not in usable and not (asked == EMULATED_AMX and can_emulate_amx()):
        raise UsageError(
            "BOBOT_ISA is {asked!r}; this machine can run {usable}.",
            hint="Unset it to get the fastest.",
            asked=asked,
            usable=", ".join(usable),
        )
    return asked


def max_rows_alike() -> int | None:
    """How many rows a product of tiles may have so that each is what it is alone, whatever the
    others; None: any number. On `amx` more are rounded to bfloat16, as `tiles_linear` says.
    """
    return 8 if available and isa() in ("amx", EMULATED_AMX) else None


def dequantize(
    format: str,
    values: Array,
    out_NK: Array,
    scales: Array | None = None,
    *,
    rows_per_scale: int = 1,
    values_per_scale: int = 1,
    num_threads: int,
    force: str | None = None,
) -> None:
    """Write the weights packed in `values` (uint8, (N, bytes)) to `out_NK` (float32).

    scales: for formats that have them apart, (ceil(N / rows_per_scale), ceil(K /
    values_per_scale)), float32 or bfloat16 (mxfp4: uint8 exponents, biased by 127). `force` names
    an instruction set.
    Raises ValueError if the shapes do not fit, TypeError for another dtype or layout.
    """
    _extension().dequantize(
        format,
        values,
        scales,
        rows_per_scale,
        values_per_scale,
        out_NK,
        num_threads,
        force or isa(),
    )


def linear(
    format: str,
    x_MK: Array,
    values: Array,
    out_MN: Array,
    scales: Array | None = None,
    *,
    rows_per_scale: int = 1,
    values_per_scale: int = 1,
    num_threads: int,
    force: str | None = None,
) -> None:
    """Write x @ weight.T to `out_MN` (float32), for a weight packed as in `dequantize`.

    x_MK: float32. Meant for decode: it reads and unpacks each weight once for four rows of x and
    does not block for the cache beyond that; for many rows `dequantize` and one torch matmul is
    faster. Raises as `dequantize`.
    """
    _extension().linear(
        format,
        x_MK,
        values,
        scales,
        rows_per_scale,
        values_per_scale,
        out_MN,
        num_threads,
        force or isa(),
    )


def linear_columns(
    x_MK: Array,
    values_KN: Array,
    scales_RN: Array,
    out_MN: Array,
    *,
    num_threads: int,
    force: str | None = None,
) -> None:
    """Write x @ (values * scales) to `out_MN` (float32), for int8 values stored input by input.

    scales: float32 or bfloat16, one row for each of R equal runs of inputs. Meant for decode, as
    `linear`. Raises ValueError if the shapes do not fit, TypeError for another dtype or layout.
    """
    _extension().linear_columns(x_MK, values_KN, scales_RN, out_MN, num_threads, force or isa())


def has_tiles(format: str) -> bool:
    """Whether weights of that format can be turned into tiles (csrc/tiles.h)."""
    return _extension().has_tiles(format)


def tiles_bytes(format: str, scales: str, num_rows: int, num_columns: int, group: int) -> int:
    """Bytes of a matrix as tiles. `scales`: the dtype of scales that lie apart, else empty;
    `group`: how many inputs share one, of formats that leave it open. Raises ValueError for a
    format or a shape that has no tiles.
    """
    return _extension().tiles_bytes(format, scales, num_rows, num_columns, group)


def pack_tiles(
    format: str,
    scales: str,
    num_rows: int,
    num_columns: int,
    group: int,
    values: Array,
    scale_values: Array | None,
    out: Array,
    *,
    num_threads: int,
) -> None:
    """Turn rows, packed as `dequantize` takes them, into tiles: `out` (uint8, tiles_bytes)."""
    _extension().pack_tiles(
        format, scales, num_rows, num_columns, group, values, scale_values, out, num_threads
    )


def tiles_linear(
    format: str,
    scales: str,
    num_rows: int,
    num_columns: int,
    group: int,
    tiles: Array,
    x_MK: Array,
    out_MN: Array,
    *,
    activations: str,
    num_threads: int,
    force: str | None = None,
) -> None:
    """Write x @ weight.T to `out_MN`; both float32, of any number of rows.

    activations: what x is multiplied as: "float32", or "int16" or "int8", rounded to integers with
    one scale per row and 32 inputs. Weights that are no integers always take it as it is.
    Where the instruction set is `amx`, more than 8 rows that are to be rounded at all are rounded
    to bfloat16 instead (exact for what was bfloat16), and so is every weight, which moves it by one
    part in 256 at most: what all products of bfloat16 by AMX do. Sums are float32.
    Raises ValueError if the shapes do not fit, TypeError for another dtype or layout.
    """
    _extension().tiles_linear(
        format,
        scales,
        num_rows,
        num_columns,
        group,
        tiles,
        x_MK,
        out_MN,
        activations,
        num_threads,
        force or isa(),
    )


def tiles_rows(
    format: str,
    scales: str,
    num_rows: int,
    num_columns: int,
    group: int,
    tiles: Array,
    index_R: Array,
    out_RK: Array,
    *,
    num_threads: int,
    force: str | None = None,
) -> None:
    """Write rows `index_R` (int64) of the weight to `out_RK` (float32). Raises as `tiles_linear`,
    and ValueError for a row that does not exist.
    """
    _extension().tiles_rows(
        format,
        scales,
        num_rows,
        num_columns,
        group,
        tiles,
        index_R,
        out_RK,
        num_threads,
        force or isa(),
    )


def decoder(
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    eps: float,
    frequencies: Array,
    rope_factor: float,
    embedding: Matrix,
    embedding_factor: float,
    lm_head: Matrix,
    norm_D: Array,
    activations: str,
    hidden: Array | None,
    hidden_id: int,
    force: str | None = None,
) -> Any:
    """A model that computes a step in one call, from ids to logits: what models/llama.py,
    mixtral.py, gpt_oss.py, grok1.py and deepseek_v3.py say, in float32 whatever the weights and the
    cache are stored in.

    Vectors are float32; activations as in `tiles_linear`; frequencies (rotary_dim / 2) and
    rope_factor as in ops/rope.py. hidden: bool (slots) or None, where a step marks the tokens
    hidden_id, whose keys nobody sees. What the object's methods take says _native.pyi.

    It keeps the arrays alive. All raise ValueError for shapes that do not fit, ids outside the
    vocabulary, blocks outside the cache.
    """
    return _extension().Decoder(
        num_heads,
        num_kv_heads,
        head_dim,
        block_size,
        eps,
        frequencies,
        rope_factor,
        embedding,
        embedding_factor,
        lm_head,
        norm_D,
        activations,
        hidden,
        hidden_id,
        force or isa(),
    )


def attention_plan(
    spans_S4: Array,
    block_starts_B: Array,
    block_size: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    v_head_dim: int,
    window: int,
    num_threads: int,
) -> Any:
    """How threads share the causal attention of S spans, for layers of one shape.

    spans_S4 (int64): a span's first row of q, number of queries, the position of the first of them
    in its sequence, and its first entry of `block_starts_B` (int64). Position p of the sequence
    lies in slot block_starts[first entry + p // block_size] + p % block_size. window: how many keys
    a query sees at most, itself included; 0 means all. The object has

        run(q, keys, values, out, scale, softcap, sinks, hidden, isa)
            q (T, num_heads, head_dim), keys (slots, num_kv_heads, head_dim), values (slots,
            num_kv_heads, v_head_dim) and out (T, num_heads, v_head_dim), each float32, bfloat16 or
            float16; keys and values alike. Rows and heads may have any strides: values may be a
            part of keys. softcap: 0 for none; sinks: float32 (num_heads) or None; hidden: bool
            (slots) or None. Sums are in float32, rows of `out` of no span stay as they are. Beside
            a cache of bfloat16, queries and weights are rounded to it where there is AVX512-BF16 or
            AMX. More than 8 rows of a key head are summed in another order than fewer

    It keeps the arrays alive and reads them anew in each run; one run at a time. Raises ValueError
    for shapes that do not fit and slots outside the cache, TypeError for another dtype.
    """
    return _extension().AttentionPlan(
        num_heads,
        num_kv_heads,
        head_dim,
        v_head_dim,
        window,
        spans_S4,
        block_starts_B,
        block_size,
        num_threads,
    )


def sample(
    logits_V: Array,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    key: int,
    force: str | None = None,
) -> int:
    """A token id by the rules of `ops.sampling.sample_reference`, temperature above 0, or -1 where
    no id can be chosen: a logit is NaN or infinite, or all are -inf.

    The id is the reference's unless a probability lies within rounding (1e-6 of it) of a filter's
    bound, or two noisy scores within 1e-15 of each other.
    Raises ValueError for an empty row, TypeError for another dtype.
    """
    return _extension().sample(logits_V, temperature, top_k, top_p, min_p, key, force or isa())


def best(logits_RV: Array, *, force: str | None = None) -> list[int]:
    """The first id with the largest logit of each row, or -1 where not all logits are finite.

    Raises ValueError for empty rows, TypeError for another dtype.
    """
    return _extension().best(logits_RV, force or isa())


def _kernel_sets() -> dict[str, bool]:
    return _extension().features()


def _extension() -> Any:
    if _native is None:
        raise NotFoundError(
            "The C++ extension bobot.kernels._native is not built.",
            hint="Run `make chat`, or `pip install --editable .`, in bobot's folder.",
        )
    return _native
