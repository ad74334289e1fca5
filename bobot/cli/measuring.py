"""How `bobot bench` gets its figures: fresh processes first, then one engine in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bobot.cli.cold_start import Start, cold_start
from bobot.cli.figures import NEW_TOKENS, Figure
from bobot.cli.loading import waiting
from bobot.errors import UsageError
from bobot.messages import tr

if TYPE_CHECKING:
    from bobot.engine import Engine
    from bobot.engine.pace import Pace

PROMPT, DEPTH, STARTS = 512, 4096, 3
PARTS = ("prefill", "decode", "depth", "start")
FILL_S = 45.0
"""A depth that nobody asked for takes at most so long to compute."""
LEAST_DEPTH = 256


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    num_prompt: int | None
    """None: 512, or what fits."""
    rows: tuple[int, ...]
    depth: int | None
    """None: 4096, or what fits and is computed soon; 0: none."""
    num_runs: int
    parts: tuple[str, ...]
    activations: str | None = None
    """Of prefill, decode and depth: see `add_activations`."""


def start_figures(path: Path, num_threads: int) -> Iterator[Figure]:
    """The model must not be loaded here: pages that are mapped stay in the cache.

    Raises RequestError where `bobot run` can't answer, as without a tokenizer.
    """
    from bobot.weights.speed import forget_cached

    cold: list[Start] = []
    warm: list[Start] = []
    with waiting(tr("measuring: {what} ...", what=tr("cold start"))):
        while len(cold) < STARTS and forget_cached(path):
            cold.append(cold_start(path, num_threads))
        while len(warm) < STARTS:
            warm.append(cold_start(path, num_threads))
    if cold:
        yield Figure("start_from_disk", tuple(start.first_byte_s for start in cold))
    yield Figure("start_from_cache", tuple(start.first_byte_s for start in warm))
    sizes = tuple(float(start.resident_bytes) for start in warm if start.resident_bytes)
    if sizes:
        yield Figure("memory", sizes)


def engine_figures(path: Path, plan: Plan) -> Iterator[Figure]:
    """Raises UsageError for a plan that context or memory do not hold."""
    with waiting(tr("loading the model ...")):
        from bobot.engine import Engine, EngineConfig
        from bobot.engine.pace import Pace
        from bobot.weights.load import load_model

        model, _ = load_model(path, activations=plan.activations)  # pyright: ignore[reportArgumentType]
        seqs = max(plan.rows)
        engine = Engine(
            model,
            EngineConfig(
                max_num_seqs=seqs, max_num_batched_tokens=max(512, seqs), speculation="off"
            ),
        )
    num_prompt = plan.num_prompt or min(PROMPT, engine.max_model_len // 2)
    plan = replace(plan, num_prompt=num_prompt)
    check(plan, num_prompt, engine)
    pace = Pace(engine)
    with waiting(tr("warming up ...")):
        pace.warm_up(num_prompt)
    if "prefill" in plan.parts:
        yield _prefill(pace, num_prompt, plan.num_runs)
    if "decode" in plan.parts:
        for num_rows in plan.rows:
            yield _decode(pace, num_rows, plan.num_runs)
    if "depth" in plan.parts:
        depth = plan.depth
        if depth is None:
            depth = chosen_depth(num_prompt, engine, pace.prefill(num_prompt, 1)[0])
        if depth:
            yield _prefill(pace, num_prompt, plan.num_runs, depth)
            yield _decode(pace, 1, plan.num_runs, depth)


def _prefill(pace: Pace, num_prompt: int, num_runs: int, depth: int = 0) -> Figure:
    figure = Figure("prefill", (), num_new=num_prompt, depth=depth)
    with waiting(tr("measuring: {what} ...", what=figure.title)):
        return replace(figure, runs=tuple(pace.prefill(num_prompt, num_runs, depth)))


def _decode(pace: Pace, num_rows: int, num_runs: int, depth: int = 0) -> Figure:
    figure = Figure("decode", (), num_rows=num_rows, depth=depth)
    with waiting(tr("measuring: {what} ...", what=figure.title)):
        return replace(figure, runs=tuple(pace.decode(num_rows, NEW_TOKENS, num_runs, depth)))


def check(plan: Plan, num_prompt: int, engine: Engine) -> None:
    """Raises UsageError for lengths that the context or the cache can't hold."""
    from bobot.engine.pace import ROW_PROMPT

    depth, num_rows = plan.depth or 0, max(plan.rows)
    answer = ROW_PROMPT + NEW_TOKENS + num_rows
    longest = max(num_prompt + depth, answer, depth and depth + ROW_PROMPT + NEW_TOKENS) + 1
    if longest > engine.max_model_len:
        raise UsageError(
            "{needed} tokens of context are needed; this model reads at most {limit}.",
            hint="Choose a smaller --depth or --prompt, or fewer --rows.",
            needed=longest,
            limit=engine.max_model_len,
        )
    capacity = engine.num_blocks * engine.config.block_size
    needed = max(longest, num_rows * answer)
    if needed > capacity:
        raise UsageError(
            "{needed} tokens of KV cache are needed; the free memory holds {limit}.",
            hint="Close other programs, or choose a smaller --depth or fewer --rows.",
            needed=needed,
            limit=capacity,
        )


def chosen_depth(num_prompt: int, engine: Engine, prefill_rate: float) -> int:
    """4096, halved until context and cache hold it twice and it is computed soon; 0 where little
    would be left.
    """
    capacity = engine.num_blocks * engine.config.block_size // 2
    room = min(engine.max_model_len, capacity) - 2 * max(num_prompt, 2 * NEW_TOKENS)
    depth = DEPTH
    while depth > max(room, 0) or depth / prefill_rate > FILL_S:
        depth //= 2
    return depth if depth >= LEAST_DEPTH else 0
