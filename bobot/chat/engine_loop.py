"""One thread that steps one engine, for any number of asyncio tasks that wait for its tokens.

Tasks post jobs and cancellations; between two steps the thread takes them up. After each step it
wakes every event loop once, with the tokens of all jobs. Nothing else may touch the engine
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread

from bobot.chat.protocol import AnswerError, OverloadedError, PromptRead
from bobot.engine import Engine, SamplingParams, TokenOutput
from bobot.engine.constraint import Constraint
from bobot.engine.prompt_rows import PromptReader
from bobot.errors import RequestError
from bobot.layers.lora import Adapter

log = logging.getLogger("bobot.chat")

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    max_queue: int = 256
    """Requests that wait for their first step; more are refused."""
    max_wait_s: float = 120.0
    """How long one may wait."""


Arrived = Sequence[TokenOutput | PromptRead] | Exception


@dataclass(eq=False)
class Job:
    """One request to the engine, and the way back to the task that waits for it."""

    prompt_ids: list[int]
    params: SamplingParams | None
    """None: the prompt is only read."""
    constraint: Constraint | None = None
    prompt_reader: PromptReader | None = None
    adapter: Adapter | None = None
    is_private: bool = False
    reports_progress: bool = False
    """After each step that reads of its prompt, a PromptRead arrives."""
    posted_s: float = field(default_factory=time.monotonic)
    request_id: int | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _arrived: deque[Arrived] = field(default_factory=deque)

    async def outputs(self) -> Sequence[TokenOutput | PromptRead]:
        """What the next step brought that had something for it."""
        while not self._arrived:
            self._wake.clear()
            await self._wake.wait()
        arrived = self._arrived.popleft()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def arrive(self, outputs: Arrived) -> None:
        """To be called in the job's own event loop."""
        self._arrived.append(outputs)
        self._wake.set()


Delivery = tuple[Job, Arrived]


class EngineLoop:
    """Starts its thread with the first job."""

    def __init__(self, engine: Engine, limits: ServiceLimits) -> None:
        self.engine = engine
        self.limits = limits
        self._changed = Condition()
        self._posted: list[Job] = []
        self._cancelled: list[Job] = []
        self._is_closing = False
        self._thread: Thread | None = None
        self._jobs: dict[int, Job] = {}
        """Of the thread: all that the engine has, by request."""
        self._waiting: dict[int, Job] = {}
        """Of the thread: those that have not had a step yet, the oldest first."""
        self._last_end_s = time.monotonic()
        self._s_per_job = 1.0
        """Between the ends of two jobs, lately."""

    @property
    def num_waiting(self) -> int:
        return len(self._posted) + len(self._waiting)

    @property
    def num_jobs(self) -> int:
        """Waiting and running."""
        return len(self._posted) + len(self._jobs)

    def post(self, job: Job) -> None:
        """Queues a job. OverloadedError where too many wait, or the service is closing."""
        with self._changed:
            if self._is_closing:
                raise OverloadedError("The server is shutting down.", retry_after_s=MAX_RETRY_S)
            if self.num_waiting >= self.limits.max_queue:
                raise OverloadedError(
                    "{found} requests are waiting already; allowed: {allowed}.",
                    retry_after_s=self._retry_after_s(),
                    found=self.num_waiting,
                    allowed=self.limits.max_queue,
                )
            self._posted.append(job)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Drops a job before the next step; does nothing if it has ended."""
        with self._changed:
            self._cancelled.append(job)
            self._changed.notify()

    def close(self, max_s: float | None = None) -> None:
        """Takes no more jobs, and returns when all have ended; those that have not after `max_s`
        fail."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(max_s)
        if self._thread.is_alive():
            with self._changed:
                self._cancelled += [*self._posted, *self._jobs.values()]
                self._changed.notify()
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_up():
                self._expire()
                self._step()
        finally:  # with jobs left only by a mistake of ours: nobody may wait for ever
            with self._changed:
                self._is_closing = True
                left = [*self._posted, *self._jobs.values()]
            self._deliver([(job, AnswerError("The model has stopped answering.")) for job in left])

    def _step(self) -> None:
        try:
            outputs = self.engine.step()
        except Exception as error:  # noqa: BLE001  of any kind: it must not end the others
            self._fail_running(error)
        else:
            self._deliver(self._sorted(outputs))

    def _take_up(self) -> bool:
        """Waits for something to do, and hands new jobs and cancellations to the engine; False
        when the service is closed and nothing is left."""
        with self._changed:
            while not (self._posted or self._cancelled or self._jobs or self._is_closing):
                self._changed.wait()
            refused = [delivery for job in self._posted for delivery in self._start(job)]
            cancelled, self._posted, self._cancelled = self._cancelled, [], []
        self._deliver(refused)
        for job in cancelled:
            if job.request_id in self._jobs:
                self._end(job)
                self._deliver([(job, AnswerError("The answer was cancelled."))])
        return bool(self._jobs) or not self._is_closing

    def _start(self, job: Job) -> list[Delivery]:
        """Hands the job to the engine; what it says against it."""
        try:
            if job.params is not None:
                job.request_id = self.engine.add(
                    job.prompt_ids,
                    job.params,
                    constraint=job.constraint,
                    prompt_reader=job.prompt_reader,
                    adapter=job.adapter,
                    is_private=job.is_private,
                )
            else:
                assert job.prompt_reader is not None, "a job with neither tokens nor a reader"
                job.request_id = self.engine.read(job.prompt_ids, job.prompt_reader, job.adapter)
        except RequestError as error:
            return [(job, error)]
        self._jobs[job.request_id] = self._waiting[job.request_id] = job
        return []

    def _end(self, job: Job) -> None:
        assert job.request_id is not None
        self.engine.abort(job.request_id)
        del self._jobs[job.request_id]
        self._waiting.pop(job.request_id, None)

    def _expire(self) -> None:
        """Refuses the jobs that have waited too long."""
        oldest = time.monotonic() - self.limits.max_wait_s
        late = [job for job in self._waiting.values() if job.posted_s < oldest]
        for job in late:
            self._end(job)
            refusal = OverloadedError(
                "The request has waited for {found:.0f} seconds; allowed: {allowed:.0f}.",
                retry_after_s=self._retry_after_s(),
                found=time.monotonic() - job.posted_s,
                allowed=self.limits.max_wait_s,
            )
            self._deliver([(job, refusal)])

    def _sorted(self, outputs: list[TokenOutput]) -> list[Delivery]:
        """The outputs by job; jobs that have ended are forgotten."""
        for request_id in self.engine.running():
            self._waiting.pop(request_id, None)
        found: dict[int, list[TokenOutput]] = {}
        for output in outputs:
            found.setdefault(output.request_id, []).append(output)
            self._waiting.pop(output.request_id, None)
        deliveries = self._progress()
        deliveries += [(self._jobs[i], outputs) for i, outputs in found.items()]
        for request_id in found:
            if not self.engine.is_unfinished(request_id):
                self._count_end(self._jobs.pop(request_id))
        return deliveries

    def _progress(self) -> list[Delivery]:
        """How far the prompts are that are not read to their end yet."""
        found: list[Delivery] = []
        for request_id, job in self._jobs.items():
            read = self.engine.prompt_read(request_id) if job.reports_progress else None
            if read is not None:
                cached, processed = read
                job.reports_progress = processed < len(job.prompt_ids)
                found.append((job, [PromptRead(len(job.prompt_ids), cached, processed)]))
        return found

    def _fail_running(self, error: Exception) -> None:
        """A step has failed: so have the jobs that took part in it, and no other."""
        log.exception("A step of the engine failed", exc_info=error)
        hit = self.engine.running() or set(self._jobs)
        for request_id in hit:
            job = self._jobs[request_id]
            self._end(job)
            failure = AnswerError(
                "The model failed on this answer: {kind}: {problem}",
                kind=type(error).__name__,
                problem=str(error)[:200],
            )
            failure.__cause__ = error
            self._deliver([(job, failure)])

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Wakes each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = {}
        for job, outputs in deliveries:
            by_loop.setdefault(job._loop, []).append((job, outputs))
        for loop, arrived in by_loop.items():
            try:
                loop.call_soon_threadsafe(_arrive, arrived)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                self._cancelled += [job for job, _ in arrived]

    def _count_end(self, job: Job) -> None:
        now = time.monotonic()
        passed_s = now - max(self._last_end_s, job.posted_s)
        self._s_per_job += 0.1 * (passed_s - self._s_per_job)
        self._last_end_s = now

    def _retry_after_s(self) -> float:
        """About the time until the queue has moved on by its length."""
        return min(max(MIN_RETRY_S, self.num_waiting * self._s_per_job), MAX_RETRY_S)


def _arrive(deliveries: list[Delivery]) -> None:
    for job, outputs in deliveries:
        job.arrive(outputs)
