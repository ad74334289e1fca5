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
        lm_head: tuple[Any, ...],
        norm: Any,
        activations: str,
        isa: str,
    ) -> None: ...
    def add_layer(
        self,
        *,
        attention_norm: Any,
        mlp_norm: Any,
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
        router: tuple[Any, Any] | None,
        gate: tuple[Any, Any],
        up: tuple[Any, Any] | None,
        down: tuple[Any, Any],
        num_experts: int,
        num_active: int,
        alpha: float,
        limit: float,
        up_offset: float,
    ) -> None: ...
    def step(
        self,
        chunks: list[tuple[int, list[int], list[int]]],
        rows: list[int],
        logits: Any,
        num_threads: int,
    ) -> None: ...

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
