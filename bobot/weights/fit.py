"""Will a model run on this machine: the memory it takes, and how fast it will be.

    report = estimate(subject_of(path), detect(), context=8192, speeds=Speeds())

Memory is arithmetic on the shapes of the parameters. Speed is the time of the operations that one
token passes (speed.py) times their number; bench/fit.py compares both with reality. Meant for one
conversation at a time on the processor: not counted are several requests at once, speculation, and
the speed of a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from bobot import kernels
from bobot.hardware import Hardware
from bobot.layers.context import AttentionSpec
from bobot.ops.attention import MAX_SCORES
from bobot.quant.weight import Weight
from bobot.weights.forms import Form, Part, Role, other_forms, parts_of
from bobot.weights.subject import Origin, Subject
from bobot.weights.work import step_work

Verdict = Literal["fits", "may be slow", "won't fit"]
FITS, SLOW, NO = "fits", "may be slow", "won't fit"

CHUNK = 512
"""Tokens of a prompt that are computed at once (EngineConfig.max_num_batched_tokens)."""
DEFAULT_CONTEXT = 8192
READING_TOKENS_PER_S = 5.0
"""About the pace at which people read; below it one waits for every sentence."""
NOTABLY_FASTER = 1.5
ABOUT_AS_FAST = 0.85
PROGRAM_BYTES = 240 << 20
"""Python, torch and bobot without weights: 238 to 243 MiB resident (torch 2.13 for CPUs, x86)."""
KEPT_FREE = 0.03
"""Of all memory, what the system keeps for itself even when every other program is closed."""
CALLS_PER_STEP = 160
CALLS_PER_LAYER = 220
CALLS_PER_EXPERT = 130
"""What surrounds the products of a step (scheduler, sampling), of a layer and of an active expert
(norms, rotation, cache, gathering tokens), in calls of a tiny product: fitted with bench/fit.py to
what the products left unexplained, on two cores of an AMD EPYC with AVX2."""


FUSED_FAMILIES = ("llama", "mixtral", "gpt_oss")
"""Whose decoding steps the engine computes in one C++ call (engine/fused.py): no calls between the
products."""


class Times(Protocol):
    """What must be known of the machine; see speed.Speeds."""

    def product_s(self, sample: Weight, num_rows: int, dtype: torch.dtype) -> float: ...
    def call_s(self, sample: Weight, dtype: torch.dtype) -> float: ...
    def attention_s(
        self,
        spec: AttentionSpec,
        num_queries: int,
        num_keys: int,
        dtype: torch.dtype,
        has_sinks: bool,
    ) -> float: ...
    def activation_s(self, dtype: torch.dtype) -> float: ...
    def small_step_s(self) -> float: ...


@dataclass(frozen=True)
class FormFit:
    """One form of the model on this machine. Speeds are None where it won't run."""

    name: str
    storage: str
    bits_per_weight: float
    plain: tuple[str, ...]
    """What stays unpacked in a packed form."""
    weight_bytes: int
    kv_bytes: int
    working_bytes: int
    memory_bytes: int
    bytes_per_token: int
    """Weights and cache that are read for one token."""
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    verdict: Verdict


@dataclass(frozen=True)
class FitReport:
    """The forms from wide to narrow, that of the publisher first, and which to take."""

    origin: Origin
    family: str
    num_parameters: int
    num_active_parameters: int
    num_experts: int
    num_active_experts: int
    max_context: int
    context: int
    kv_bytes_per_1024_tokens: int
    download_bytes: int
    forms: tuple[FormFit, ...]
    choice: str | None
    """Name of the form to take; None where none runs here."""

    @property
    def published(self) -> FormFit:
        return self.forms[0]

    @property
    def chosen(self) -> FormFit | None:
        return next((form for form in self.forms if form.name == self.choice), None)

    @property
    def verdict(self) -> Verdict:
        return NO if self.chosen is None else self.chosen.verdict


def estimate(
    subject: Subject,
    machine: Hardware,
    times: Times,
    context: int | None = None,
    *,
    only_published: bool = False,
) -> FitReport:
    """What each form of the model takes and reaches on the machine; context None: the model's, at
    most DEFAULT_CONTEXT.
    """
    account = _Account(subject, times, machine, context)
    forms = [subject.published]
    if not only_published:
        others = other_forms(subject.model, subject.family)
        forms += [form for form in others if not _is_same(form, forms[0])]
    fits = tuple(account.fit(form) for form in forms)
    choice = _choose(fits)
    return FitReport(
        origin=subject.origin,
        family=subject.family.name,
        num_parameters=sum(part.numel for part in account.parts),
        num_active_parameters=round(sum(account.used(p) * p.numel for p in account.parts)),
        num_experts=account.num_experts,
        num_active_experts=account.num_active,
        max_context=subject.config.max_position_embeddings,
        context=account.context,
        kv_bytes_per_1024_tokens=1024 * account.token_bytes(subject.published.dtype),
        download_bytes=subject.download_bytes,
        forms=fits,
        choice=None if choice is None else choice.name,
    )


def streaming_s(form: FormFit, ram_bytes: int, disk_bytes_per_s: float) -> float:
    """Seconds per token if what does not fit into so much memory were read from disk each time: the
    share of the form that is not there, of what a token reads.
    """
    missing = max(0.0, 1 - ram_bytes / form.memory_bytes)
    return form.bytes_per_token * missing / disk_bytes_per_s


def _is_same(form: Form, published: Form) -> bool:
    return form.num_bytes == published.num_bytes and form.main_storage == published.main_storage


def _choose(forms: Sequence[FormFit]) -> FormFit | None:
    """The published form if it runs well, else the widest that does; where none does, the widest
    that is about as fast as the fastest, if that is worth a change. No form wider than the
    published one: nothing would be gained.
    """
    published = forms[0]
    runs = [
        form
        for form in forms
        if form.verdict != NO and (form is published or form.weight_bytes < published.weight_bytes)
    ]
    if not runs:
        return None
    for form in runs:
        if form.verdict == FITS:
            return form
    speeds = [form.decode_tokens_per_s or 0.0 for form in runs]
    if max(speeds) <= NOTABLY_FASTER * speeds[0]:
        return runs[0]
    return next(f for f, s in zip(runs, speeds, strict=True) if s >= ABOUT_AS_FAST * max(speeds))


class _Account:
    """The sums over one model's parameters and layers."""

    def __init__(
        self, subject: Subject, times: Times, machine: Hardware, context: int | None
    ) -> None:
        self.times = times
        self.machine = machine
        self.is_here = subject.origin == "files"
        self.may_fuse = subject.family.name in FUSED_FAMILIES and kernels.available
        self.parts = parts_of(subject.model)
        model: Any = subject.model
        self.specs: list[AttentionSpec] = model.kv_specs()
        self.has_sinks = any(part.name.endswith(".sinks") for part in self.parts)
        self.num_experts = max(
            (part.shape[0] for part in self.parts if part.role is Role.EXPERTS), default=0
        )
        self.num_active = subject.config.num_experts_per_tok if self.num_experts else 0
        self.context = context or min(subject.config.max_position_embeddings, DEFAULT_CONTEXT)

    def used(self, part: Part) -> float:
        """The share of a parameter that one token passes."""
        return self.num_active / self.num_experts if part.role is Role.EXPERTS else 1.0

    def token_bytes(self, dtype: torch.dtype) -> int:
        """Cache bytes of one token."""
        return sum(spec.cached_per_token for spec in self.specs) * dtype.itemsize

    def samples(self, form: Form) -> dict[str, Weight]:
        """Storage -> the largest weight stored so, to time products with."""
        by_size = sorted(form.weights, key=lambda stored: stored.sample.numel())
        return {stored.storage: stored.sample for stored in by_size}

    def fit(self, form: Form) -> FormFit:
        kv_bytes = self.context * self.token_bytes(form.dtype)
        working_bytes = PROGRAM_BYTES + self.working_bytes()
        memory_bytes = form.num_bytes + kv_bytes + working_bytes
        ram = self.machine.ram_bytes
        has_disk = self.is_here or form.num_bytes <= self.machine.disk_free_bytes
        prefill = decode = None
        verdict: Verdict = NO
        if memory_bytes <= ram * (1 - KEPT_FREE) and has_disk:
            prefill, decode = CHUNK / self.prefill_s(form), 1 / self.decode_s(form)
            is_free = memory_bytes <= self.machine.ram_available_bytes
            verdict = FITS if is_free and decode >= READING_TOKENS_PER_S else SLOW
        return FormFit(
            name=form.name,
            storage=form.main_storage,
            bits_per_weight=form.bits_per_weight,
            plain=tuple(form.plain_roles),
            weight_bytes=form.num_bytes,
            kv_bytes=kv_bytes,
            working_bytes=working_bytes,
            memory_bytes=memory_bytes,
            bytes_per_token=self.bytes_per_token(form),
            prefill_tokens_per_s=prefill,
            decode_tokens_per_s=decode,
            verdict=verdict,
        )

    def bytes_per_token(self, form: Form) -> int:
        """Of a token at the end of the context."""
        return round(step_work(form, self.specs, self.num_active, depth=self.context - 1).num_bytes)

    def working_bytes(self) -> int:
        """Activations of a chunk of the prompt, logits, and where no kernel computes it the scores
        of an attention that torch computes by its definition: ops/attention.py.
        """
        inner = (sum(p.shape[-2:]) for p in self.parts if p.role in (Role.MATRIX, Role.EXPERTS))
        logits = max(p.shape[0] for p in self.parts if p.role in (Role.HEAD, Role.EMBEDDING))
        scores = 0
        for spec in () if kernels.available else self.specs:
            has_own_rule = self.has_sinks or spec.logit_softcap is not None
            if has_own_rule or spec.head_dim != spec.v_head_dim:
                scores = max(scores, min(MAX_SCORES, spec.num_heads * CHUNK * self.context))
        return 4 * (6 * CHUNK * max(inner, default=0) + 3 * logits + 3 * scores)

    def decode_s(self, form: Form) -> float:
        """One token at the end of the context."""
        time_s, samples = 0.0, self.samples(form)
        for stored in form.weights:
            if stored.part.role in (Role.EMBEDDING, Role.SMALL):
                continue
            sample = samples[stored.storage]
            per_weight = self.times.product_s(sample, 1, form.dtype)
            calls = self.num_active if stored.part.role is Role.EXPERTS else 1
            time_s += per_weight * stored.part.numel * self.used(stored.part)
            if not self.may_fuse:
                time_s += self.times.call_s(sample, form.dtype) * calls
        layers, experts = (0, 0) if self.may_fuse else (len(self.specs), self.num_active)
        time_s += self.overhead_s(layers, experts)
        return time_s + self.attention_s(form, 1, self.context)

    def prefill_s(self, form: Form) -> float:
        """A prompt of CHUNK tokens."""
        rows_of_expert, share = CHUNK, 1.0
        if self.num_experts:
            chosen = self.num_active / self.num_experts
            share = 1 - (1 - chosen) ** CHUNK
            rows_of_expert = max(1, round(CHUNK * chosen / share))
        time_s, samples = 0.0, self.samples(form)
        for stored in form.weights:
            part, sample = stored.part, samples[stored.storage]
            if part.role is Role.HEAD:
                time_s += self.times.product_s(sample, 1, form.dtype) * part.numel
            elif part.role is Role.EXPERTS:
                per_weight = self.times.product_s(sample, rows_of_expert, form.dtype)
                time_s += per_weight * part.numel * share
            elif part.role in (Role.MATRIX, Role.ROUTER):
                time_s += self.times.product_s(sample, CHUNK, form.dtype) * part.numel
            if part.role in (Role.MATRIX, Role.EXPERTS):
                calls = self.num_active if part.role is Role.EXPERTS else 1
                elements = CHUNK * part.shape[-2] * calls
                time_s += self.times.activation_s(form.dtype) * elements
        overhead_s = self.overhead_s(len(self.specs), self.num_experts * share)
        return time_s + self.attention_s(form, CHUNK, CHUNK) + overhead_s

    def attention_s(self, form: Form, num_queries: int, num_keys: int) -> float:
        time_s = 0.0
        for spec in self.specs:
            keys = num_keys
            if num_queries == 1:
                keys = min(num_keys, spec.sliding_window or num_keys)
            time_s += self.times.attention_s(spec, num_queries, keys, form.dtype, self.has_sinks)
        return time_s

    def overhead_s(self, num_layers: int, num_experts: float) -> float:
        """Of a step through so many layers, each mixture with so many experts at work."""
        num_mixtures = sum(part.role is Role.ROUTER for part in self.parts)
        calls = CALLS_PER_STEP + CALLS_PER_LAYER * num_layers
        calls += CALLS_PER_EXPERT * num_mixtures * num_experts
        return calls * self.times.small_step_s()
