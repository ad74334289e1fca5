"""A request, its sequences, and what a step says about one of them."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bobot.engine.sampling_params import SamplingParams
from bobot.errors import RequestError

if TYPE_CHECKING:
    from bobot.engine.constraint import Constraint
    from bobot.engine.prompt_rows import PromptReader
    from bobot.layers.lora import Adapter

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class TokenOutput:
    """One token of one sequence; with `finish_reason`, the last one.

    A stop token is reported too (finish_reason "stop"): the caller decides whether to show it.
    """

    request_id: int
    index: int
    """Which of the request's n sequences."""
    token_id: int | None
    """None when finish_reason is "error", and when the request only reads its prompt."""
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] | None
    """The most likely ids with their log-probabilities, best first."""
    finish_reason: FinishReason | None
    num_prompt_tokens: int
    num_cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    error: RequestError | None = None


class Request:
    """What a client asked: one prompt, n sequences of continuation."""

    def __init__(
        self,
        request_id: int,
        prompt_ids: list[int],
        params: SamplingParams,
        seed: int,
        max_len: int,
        constraint: Constraint | None = None,
        prompt_reader: PromptReader | None = None,
        *,
        adapter: Adapter | None = None,
        is_private: bool = False,
    ) -> None:
        self.request_id = request_id
        self.prompt_ids = prompt_ids
        self.params = params
        self.seed = seed
        self.max_len = max_len
        """Tokens, prompt included, at which a sequence ends with "length"."""
        self.adapter = adapter
        self.is_private = is_private
        """Its keys and values never reach the disk."""
        self.sequences = [Sequence(self, index) for index in range(params.n)]
        if constraint is not None:
            for sequence in self.sequences:
                sequence.constraint = constraint.fork()
        self.sequences[0].prompt_reader = prompt_reader

    @property
    def only_reads(self) -> bool:
        """No token is chosen: the end of the prompt is the end."""
        return self.max_len == len(self.prompt_ids)

    @property
    def is_finished(self) -> bool:
        return all(sequence.finish_reason is not None for sequence in self.sequences)


class Sequence:
    """One stream of ids. There is no prefill and no decode: `num_computed_tokens` catches up with
    `num_tokens`, and whenever it does, the last logits give the next token.

    Preemption sets `num_computed_tokens` back to 0 and a prefix-cache hit sets it forward; nothing
    else changes.
    """

    def __init__(self, request: Request, index: int) -> None:
        self.request = request
        self.index = index
        self.adapter = request.adapter
        """What changes the model for its tokens."""
        self.token_ids = list(request.prompt_ids)
        self.num_computed_tokens = 0
        self.num_cached_tokens: int | None = None
        """Set when the sequence first gets its blocks; not changed by preemption."""
        self.block_table: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.constraint: Constraint | None = None
        self.prompt_reader: PromptReader | None = None
        self._block_hashes: list[bytes] = []

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_new_tokens(self) -> int:
        """Tokens whose keys and values are still to be computed."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[len(self.request.prompt_ids) :]

    def block_hashes(self, num_blocks: int, block_size: int) -> list[bytes]:
        """Chained hashes of the first `num_blocks` full blocks.

        hash[i] = blake2b(hash[i - 1] + ids of block i as int32): equal hashes mean equal tokens
        from the start on, and the same adapter, whose digest stands before the first block. 256
        bits, since a collision would show one client another's conversation.
        """
        hashes = self._block_hashes
        root = b"" if self.adapter is None else self.adapter.digest
        for i in range(len(hashes), num_blocks):
            ids = array("i", self.token_ids[i * block_size : (i + 1) * block_size])
            parent = hashes[-1] if hashes else root
            hashes.append(hashlib.blake2b(parent + ids.tobytes(), digest_size=32).digest())
        return hashes[:num_blocks]

    def token_key(self, position: int) -> int:
        """64 random bits for the token at `position`, from (seed, index, position) and nothing
        else.

        They do not depend on the step, the batch or the machine: a sequence draws the same noise
        alone, in a batch, after a preemption, and whether or not its token was drafted.
        """
        counter = f"{self.request.seed}/{self.index}/{position}".encode()
        return int.from_bytes(
            hashlib.blake2b(counter, digest_size=8).digest(), "little", signed=True
        )


@dataclass(frozen=True)
class Chunk:
    """The next `num_tokens` uncomputed tokens of a sequence, to be computed in one step, and
    behind the last of them `draft_ids`, which may or may not turn out to follow.
    """

    sequence: Sequence
    num_tokens: int
    draft_ids: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """Tokens that go through the model."""
        return self.num_tokens + len(self.draft_ids)
