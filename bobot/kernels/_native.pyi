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
        eps: float,
        scale: float,
        window: int,
        norm: Any,
        num_threads: int,
        isa: str,
    ) -> None: ...
    def add_layer(
        self, attention_norm: Any, mlp_norm: Any, weights: list[Any], keys: Any, values: Any
    ) -> None: ...
    def step(
        self, x: Any, cos: Any, sin: Any, key_slots: Any, first_keys: Any, lengths: Any
    ) -> None: ...

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
