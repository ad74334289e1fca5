"""Requests of token ids in, their next tokens out, step by step. No text, no threads, no HTTP."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Collection, Iterable
from collections.abc import Sequence as Rows
from itertools import chain
from pathlib import Path

import torch

from bobot import hardware
from bobot.engine.block_pool import BlockPool
from bobot.engine.config import EngineConfig, choose_max_model_len, choose_num_blocks
from bobot.engine.constraint import Constraint, MaskMaker
from bobot.engine.disk_cache import open_disk_cache
from bobot.engine.kv_cache import bytes_per_token
from bobot.engine.prompt_rows import PromptReader
from bobot.engine.request import Chunk, FinishReason, Request, Sequence, TokenOutput
from bobot.engine.runner import CausalModel, Runner, first_weight
from bobot.engine.sampler import Choice, choose
from bobot.engine.sampling_params import SamplingParams
from bobot.engine.scheduler import Scheduler
from bobot.engine.speculation import Speculation, choose_drafter
from bobot.engine.stats import EngineStats
from bobot.errors import RequestError
from bobot.layers.lora import Adapter


class Engine:
    """Runs many requests over one model. One thread calls it; nothing happens between calls.

    `draft_model`, a smaller one with the same vocabulary, guesses tokens that the model then
    checks several at a time; without one, tokens are guessed from repetitions in the text
    (`EngineConfig.speculation`). Either changes the speed only.

    engine = Engine(model, EngineConfig(max_num_seqs=4), eos_ids={2})
    request_id = engine.add([1, 15043], SamplingParams(temperature=0.0, max_tokens=8))
    while engine.has_unfinished():
        for output in engine.step():
            print(output.request_id, output.token_id, output.finish_reason)
    """

    def __init__(
        self,
        model: CausalModel,
        config: EngineConfig | None = None,
        eos_ids: Iterable[int] = frozenset(),
        draft_model: CausalModel | None = None,
    ) -> None:
        config = config or EngineConfig()
        self.config = config
        self.eos_ids = frozenset(eos_ids)
        self.vocab_size: int = model.config.vocab_size
        self.max_model_len = choose_max_model_len(config, model.config.max_position_embeddings)
        models = [model] if draft_model is None else [model, draft_model]
        self.num_blocks = _num_blocks(models, config, self.max_model_len)
        self._stats = EngineStats()
        self.scheduler = Scheduler(config, BlockPool(self.num_blocks), self._stats)
        self.runner = Runner(model, self.num_blocks, config.block_size)
        drafter = choose_drafter(config, self.vocab_size, draft_model, self.num_blocks)
        self.speculation = Speculation(config, drafter, self.scheduler, self._stats)
        self.mask_maker = MaskMaker(self.vocab_size)
        self._requests: dict[int, Request] = {}
        self._next_request_id = 0

    def add(
        self,
        prompt_ids: Iterable[int],
        params: SamplingParams | None = None,
        *,
        constraint: Constraint | None = None,
        prompt_reader: PromptReader | None = None,
        adapter: Adapter | None = None,
        is_private: bool = False,
    ) -> int:
        """Queues a request and returns its id. RequestError if it can never run as asked.

        `constraint` says what each of the n sequences may hold; `prompt_reader` is given the rows
        of the prompt that it wants, before the first token; `adapter`, made for this model,
        changes it for this request. What is private is not kept on disk.
        """
        params = params or SamplingParams()
        prompt = list(prompt_ids)
        max_len = self.check(prompt, params)
        return self._queue(
            prompt,
            params,
            max_len,
            constraint,
            prompt_reader,
            adapter=adapter,
            is_private=is_private,
        )

    def check(self, prompt: list[int], params: SamplingParams | None) -> int:
        """Tokens, prompt included, at which a sequence would end; params None: the prompt is only
        read. RequestError if the request can never run. Changes nothing, from any thread.
        """
        self.check_prompt(prompt)
        if params is None:
            return self._check_length(len(prompt), 0)
        self._check_vocabulary("logit_bias", params.logit_bias)
        return self._check_length(len(prompt), params.max_tokens)

    def read(
        self,
        prompt_ids: Iterable[int],
        prompt_reader: PromptReader,
        adapter: Adapter | None = None,
    ) -> int:
        """Queues a request that ends, without a token and with "length", when its reader has what
        it wants of the prompt."""
        prompt = list(prompt_ids)
        max_len = self.check(prompt, None)
        return self._queue(prompt, SamplingParams(), max_len, None, prompt_reader, adapter=adapter)

    def _queue(
        self,
        prompt: list[int],
        params: SamplingParams,
        max_len: int,
        constraint: Constraint | None,
        prompt_reader: PromptReader | None,
        *,
        adapter: Adapter | None = None,
        is_private: bool = False,
    ) -> int:
        seed = secrets.randbits(63) if params.seed is None else params.seed
        request = Request(
            self._next_request_id,
            prompt,
            params,
            seed,
            max_len,
            constraint,
            prompt_reader,
            adapter=adapter,
            is_private=is_private,
        )
        self._next_request_id += 1
        self._requests[request.request_id] = request
        self.scheduler.add(request.sequences[0])
        return request.request_id

    def keep_prefixes(self, folder: Path, max_bytes: int, model: str) -> None:
        """Keeps blocks of prompts in files of `folder` from now on, and finds those of earlier
        processes. `model` names the weights and the version of the program. To be called before
        the first request; `close` at the end. Raises StorageError.
        """
        assert not self._next_request_id, "the cache is in use already"
        if self.config.enable_prefix_caching:
            self.scheduler.disk = open_disk_cache(folder, max_bytes, model, self.runner)

    def close(self) -> None:
        """Returns when the files of `keep_prefixes` are written."""
        if self.scheduler.disk is not None:
            self.scheduler.disk.close()

    @torch.inference_mode()
    def step(self) -> list[TokenOutput]:
        """Computes one batch; the tokens of the sequences that have caught up with their ids, one
        for each and one more for each draft that was right.
        """
        chunks = self.speculation.add_drafts(self.scheduler.schedule())
        if not chunks:
            return []
        masks = self.mask_maker.begin(chunks)
        logits_RV, caught_up = self.runner.run(chunks)
        choices = choose(logits_RV, caught_up, masks)
        outputs = list(chain.from_iterable(map(self._accept, caught_up, choices)))
        self.scheduler.commit(chunks)
        self._stats.num_steps += 1
        self._stats.num_chunks += len(chunks)
        self._stats.num_generated_tokens += sum(o.token_id is not None for o in outputs)
        return outputs

    def abort(self, request_id: int) -> None:
        """Drops a request and frees its blocks at once; does nothing if it has ended already."""
        request = self._requests.pop(request_id, None)
        for sequence in request.sequences if request else ():
            self.scheduler.remove(sequence)

    def running(self) -> set[int]:
        """Requests that take part in the steps now; the others wait."""
        return {sequence.request.request_id for sequence in self.scheduler.running}

    def prompt_read(self, request_id: int) -> tuple[int, int] | None:
        """Of the prompt, tokens that the prefix cache had, and all whose keys and values are there;
        None before the request's first step and after its last."""
        request = self._requests.get(request_id)
        first = request.sequences[0] if request else None
        if first is None or first.num_cached_tokens is None:
            return None
        return first.num_cached_tokens, min(
            first.num_computed_tokens, len(first.request.prompt_ids)
        )

    def is_unfinished(self, request_id: int) -> bool:
        return request_id in self._requests

    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def stats(self) -> EngineStats:
        """Totals since the start and the state now, as a copy."""
        scheduler, disk = self.scheduler, self.scheduler.disk
        return dataclasses.replace(
            self._stats,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_free_blocks=scheduler.pool.num_free,
            num_disk_bytes=disk.files.num_bytes if disk else 0,
            num_dropped_blocks=disk.num_dropped_blocks if disk else 0,
        )

    def _accept(self, chunk: Chunk, choices: list[Choice]) -> list[TokenOutput]:
        """Appends the tokens up to the one that ends the sequence."""
        outputs = []
        for choice in choices:
            outputs.append(self._append(chunk.sequence, choice))
            if chunk.sequence.finish_reason is not None:
                break
        self.speculation.learn(chunk)
        return outputs

    def _append(self, sequence: Sequence, choice: Choice) -> TokenOutput:
        """Appends the token, ends the sequence if it is the last one, and says so."""
        request = sequence.request
        is_first = sequence.num_tokens == len(request.prompt_ids)
        reason: FinishReason | None = "error"
        if request.only_reads and choice.error is None:
            choice, reason = Choice(None), "length"
        elif choice.token_id is not None:
            if sequence.constraint is not None:
                sequence.constraint.accept(choice.token_id)
            sequence.token_ids.append(choice.token_id)
            reason = self._finish_reason(sequence, choice.token_id)
        sequence.finish_reason = reason
        if is_first and sequence.index == 0:
            # The others start now: they find the prompt's full blocks in the prefix cache.
            self.scheduler.add_first(request.sequences[1:])
        if request.is_finished:
            del self._requests[request.request_id]
        return TokenOutput(
            request_id=request.request_id,
            index=sequence.index,
            token_id=choice.token_id,
            logprob=choice.logprob,
            top_logprobs=choice.top_logprobs,
            finish_reason=reason,
            num_prompt_tokens=len(request.prompt_ids),
            num_cached_tokens=sequence.num_cached_tokens or 0,
            error=choice.error,
        )

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        params = sequence.request.params
        if token_id in params.stop_token_ids:
            return "stop"
        if token_id in self.eos_ids and not params.ignore_eos:
            return "stop"
        return "length" if sequence.num_tokens >= sequence.request.max_len else None

    def check_prompt(self, prompt: list[int]) -> None:
        """RequestError for a prompt without tokens or with one outside the vocabulary."""
        if not prompt:
            raise RequestError(
                "The prompt has no tokens; at least 1 is needed.",
                hint="Start with the model's BOS token.",
            )
        self._check_vocabulary("prompt", prompt)

    def _check_vocabulary(self, place: str, ids: Collection[int]) -> None:
        low, high = min(ids, default=0), max(ids, default=0)
        if low < 0 or high >= self.vocab_size:
            raise RequestError(
                "{place} holds token id {found}; allowed: 0 to {highest}.",
                hint="Does the tokenizer belong to this model?",
                place=place,
                found=low if low < 0 else high,
                highest=self.vocab_size - 1,
            )

    def _check_length(self, num_prompt: int, max_tokens: int | None) -> int:
        """Tokens at which a sequence ends. The last token is never computed and needs no slot."""
        if num_prompt >= self.max_model_len + (max_tokens == 0):
            raise RequestError(
                "The prompt has {num_prompt} tokens; at most {max_prompt} leave room for an answer "
                "in a context of {max_model_len}.",
                hint="Shorten the prompt.",
                num_prompt=num_prompt,
                max_prompt=self.max_model_len - 1,
                max_model_len=self.max_model_len,
            )
        capacity = self.num_blocks * self.config.block_size
        if max_tokens is None:
            max_len = min(self.max_model_len, max(capacity, num_prompt) + 1)
        else:
            max_len = min(self.max_model_len, num_prompt + max_tokens)
        if max_len - (max_tokens != 0) > capacity:
            raise RequestError(
                "{num_prompt} prompt tokens and {num_new} new ones need {needed} KV-cache blocks; "
                "the pool has {num_blocks} of {block_size} tokens.",
                hint="Ask for fewer tokens, or raise num_blocks.",
                num_prompt=num_prompt,
                num_new=max_len - num_prompt,
                needed=-(-(max_len - (max_tokens != 0)) // self.config.block_size),
                num_blocks=self.num_blocks,
                block_size=self.config.block_size,
            )
        return max_len


def _num_blocks(models: Rows[CausalModel], config: EngineConfig, max_model_len: int) -> int:
    """Blocks of the pool; each model has a cache of so many."""
    if config.num_blocks is not None:
        return config.num_blocks
    weight = first_weight(models[0])
    if weight.device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(weight.device)[0]
    else:
        free_bytes = hardware.detect().ram_available_bytes
    token_bytes = sum(bytes_per_token(m.kv_specs(), first_weight(m).dtype) for m in models)
    return choose_num_blocks(config, max_model_len, token_bytes, free_bytes)
