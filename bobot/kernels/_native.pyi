from typing import Any

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
