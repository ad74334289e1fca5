"""How many tokens a second the engine computes: prompts, and answers of one or more rows, at any
depth of the cache. What a machine could do at most is not here: kernels/limits.py, weights/work.py.

Token ids are random: what they say does not matter for the time, and no two prompts are equal but
for the tokens that lie in the cache as depth. Greedy, no stop token ends an answer.
"""

from __future__ import annotations

import random
import time
from collections import Counter

from bobot.engine.engine import Engine
from bobot.engine.request import TokenOutput
from bobot.engine.sampling_params import SamplingParams

ROW_PROMPT = 16
"""Tokens of each row's own prompt before its answer is timed."""
BUDGET_S = 6.0
"""A figure is not repeated once it has taken so long, and an answer is cut off then."""


class Pace:
    """Times one engine; each method gives tokens per second, one number for each run.

    The engine must be idle. The first run of anything is slow (pages are read from disk, buffers
    are made): call `warm_up` before.
    """

    def __init__(self, engine: Engine, seed: int = 0) -> None:
        self.engine = engine
        self._random = random.Random(seed)
        self._shared: list[int] = []

    def warm_up(self, num_tokens: int) -> None:
        """A prompt and a few tokens more."""
        self.prefill(num_tokens, 1)
        self.decode(1, 4, 1)

    def prefill(self, num_tokens: int, num_runs: int, depth: int = 0) -> list[float]:
        """Prompts whose last `num_tokens` tokens are new, to the first token of the answer."""
        before = self._fill(depth)
        rates: list[float] = []
        while self._goes_on(rates, num_tokens, num_runs):
            start = time.perf_counter()
            self.engine.add([*before, *self._ids(num_tokens)], _params(1))
            (output,) = self._until_first()
            num_computed = len(before) + num_tokens - output.num_cached_tokens
            rates.append(num_computed / (time.perf_counter() - start))
        return rates

    def decode(self, num_rows: int, num_new: int, num_runs: int, depth: int = 0) -> list[float]:
        """Answers of `num_rows` sequences side by side, all rows together; their prompts are not
        timed.

        num_new: tokens of each row, at least 2.
        """
        before = self._fill(depth)
        rates: list[float] = []
        while self._goes_on(rates, num_rows * num_new, num_runs):
            requests = [
                self.engine.add([*before, *self._ids(ROW_PROMPT)], _params(num_new + num_rows))
                for _ in range(num_rows)
            ]
            rates.append(self._decode_rate(num_rows, num_new))
            for request_id in requests:
                self.engine.abort(request_id)
        return rates

    def _decode_rate(self, num_rows: int, num_new: int) -> float:
        """From the step in which the last row begins its answer to that which ends the first."""
        counts: Counter[int] = Counter()
        while len(counts) < num_rows:
            counts.update(output.request_id for output in self.engine.step())
        start = now = time.perf_counter()
        num_tokens = num_steps = 0
        is_ended = False
        while not is_ended and num_steps < num_new and (num_steps < 2 or now < start + BUDGET_S):
            outputs = self.engine.step()
            now = time.perf_counter()
            num_tokens += len(outputs)
            num_steps += 1
            is_ended = any(output.finish_reason for output in outputs)
        return num_tokens / (now - start)

    def _fill(self, depth: int) -> list[int]:
        """Ids that lie in the cache, ready to be shared: the same ones for every call."""
        missing = depth - len(self._shared)
        self._shared += self._ids(missing)
        if depth and missing > 0:
            self.engine.add(self._shared, _params(1))
            self._until_first()
        return self._shared[:depth]

    def _until_first(self) -> list[TokenOutput]:
        outputs: list[TokenOutput] = []
        while not outputs:
            outputs = self.engine.step()
        return outputs

    def _ids(self, count: int) -> list[int]:
        return [self._random.randrange(self.engine.vocab_size) for _ in range(count)]

    @staticmethod
    def _goes_on(rates: list[float], num_tokens: int, num_runs: int) -> bool:
        spent_s = sum(num_tokens / rate for rate in rates)
        return len(rates) < num_runs and spent_s < BUDGET_S


def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
