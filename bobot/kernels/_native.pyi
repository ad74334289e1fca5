from typing import Any

class AttentionPlan:
    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        v_head_dim: int,
        window: int,
        spans: Any,
        block_starts: Any,
        block_size: int,
        num_threads: int,
    ) -> None: ...
    def run(
        self,
        q: Any,
        keys: Any,
        values: Any,
        out: Any,
        scale: float,
        softcap: float,
        sinks: Any,
        hidden: Any,
        isa: str,
    ) -> None: ...

class DecoderAdapter: ...

class Decoder:
    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        eps: float,
        frequencies: Any,
        rope_factor: float,
        embedding: tuple[Any, ...],
        embedding_factor: float,
        lm_head: tuple[Any, ...],
        norm: Any,
        activations: str,
        hidden: Any,
        hidden_id: int,
        isa: str,
    ) -> None: ...
    def add_attention(
        self,
        *,
        norm: Any,
        norm_after: Any,
        q: tuple[Any, Any],
        k: tuple[Any, Any],
        v: tuple[Any, Any],
        o: tuple[Any, Any],
        sinks: Any,
        window: int,
        scale: float,
        softcap: float,
        keys: Any,
        values: Any,
    ) -> None:
        """Begins a layer. q, k, v, o and all matrices of a layer: (Matrix, bias or None).

        norm_after: that of a part's result before it is added, or None. window: keys that a query
        sees at most, 0 for all; softcap 0: none. keys and values: the cache (slots, num_kv_heads,
        head_dim), float32, bfloat16 or float16, read and written in place.
        """
    def add_latent_attention(
        self,
        *,
        norm: Any,
        q_a: tuple[Any, Any] | None,
        q_norm: Any,
        q: tuple[Any, Any],
        kv_a: tuple[Any, Any],
        kv_norm: Any,
        latent_eps: float,
        key: tuple[Any, Any],
        value: tuple[Any, Any],
        o: tuple[Any, Any],
        scale: float,
        keys: Any,
    ) -> None:
        """Begins a layer whose one key for all heads is a latent with rotary_dim numbers behind it,
        and whose value is that latent (models/deepseek_v3.py).

        Without q_a and its norm, q reads the hidden state. key and value are stacks of one matrix
        for each head: (latent, plain part of a query) and (value, latent). Pairs of neighbours
        rotate.
        """
    def add_shared(
        self, *, gate: tuple[Any, Any], up: tuple[Any, Any], down: tuple[Any, Any]
    ) -> None:
        """A network for every token beside the experts before it, of the same kind."""
    def add_mlp(
        self,
        *,
        norm: Any,
        norm_after: Any,
        gate: tuple[Any, Any],
        up: tuple[Any, Any] | None,
        down: tuple[Any, Any],
        num_experts: int,
        alpha: float,
        cubic: float,
        limit: float,
        up_offset: float,
    ) -> None:
        """down(gate * sigmoid(alpha * (gate + cubic * gate**3)) * (up + up_offset)), gate and up
        clamped at limit.

        gate, up and down may be the matrices of num_experts one behind the other; without `up`,
        rows 2i of gate are the gate's and rows 2i + 1 those of up.
        """
    def add_router(
        self,
        *,
        router: tuple[Any, Any],
        num_active: int,
        scores: str,
        choice_bias: Any,
        num_groups: int,
        num_best_groups: int,
        factor: float,
    ) -> None:
        """Who picks among the experts of the mlp before it.

        scores: what the weights of the chosen experts are, before they are multiplied by `factor`:
        "softmax of chosen", "softmax of all", "sigmoid" or "normalized sigmoid". choice_bias, or
        None, is added to the scores that choose. Of equal groups of experts only the best are
        chosen from; a group is as good as its best two.
        """
    def adapter(self, changes: list[tuple[int, str, Any, Any]]) -> DecoderAdapter:
        """Low-rank changes of linear layers that every token passes: the layer, the name of the
        part as add_... takes it ("router", "shared gate", "shared up" and "shared down" too), A
        (rank, inputs) and B (rank, outputs), float32. For rows of the adapter the layer's result
        is W x + its bias + transposed(B) (A x).

        Keeps the arrays and the decoder alive. Raises ValueError for a layer that does not exist
        or has experts, for other shapes, and for a layer that is changed twice.
        """
    def step(
        self,
        chunks: list[tuple[int, list[int], list[int]]],
        rows: list[int],
        logits: Any,
        num_threads: int,
        adapters: list[DecoderAdapter | None] = ...,
    ) -> None:
        """chunks: (first position, ids, block table) of tokens that follow each other in one
        sequence; position p lies in slot table[p // block_size] * block_size + p % block_size.
        `rows` counts through the tokens of all chunks and says whose logits are written.
        adapters: of each chunk, or none at all.
        """

def sample(
    logits: Any,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    key: int,
    isa: str,
) -> int: ...
def best(logits: Any, isa: str) -> list[int]: ...
def features() -> dict[str, bool]: ...
def formats() -> dict[str, tuple[int, int]]: ...
def dequantize(
    format: str,
    values: Any,
    scales: Any,
    rows_per_scale: int,
    values_per_scale: int,
    out: Any,
    num_threads: int,
    isa: str,
) -> None: ...
def linear_columns(
    x: Any, values: Any, scales: Any, out: Any, num_threads: int, isa: str
) -> None: ...
def linear(
    format: str,
    x: Any,
    values: Any,
    scales: Any,
    rows_per_scale: int,
    values_per_scale: int,
    out: Any,
    num_threads: int,
    isa: str,
) -> None: ...
def operations() -> list[str]: ...
def operations_per_s(name: str, num_threads: int) -> float: ...
def read_bytes_per_s(num_bytes: int, num_threads: int) -> float: ...
