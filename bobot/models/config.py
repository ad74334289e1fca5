"""Reading a model's published configuration strictly, whichever dialect it is written in.

A key nobody knows, a value of the wrong type and a missing key each stop the load with the key's
name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from bobot.errors import ConfigError
from bobot.ops.rope import RopeParameters, inverse_frequencies
from bobot.quant.weight import Weight

T = TypeVar("T", int, float, bool, str)
_REQUIRED: Any = object()

LARGEST_SIZE = 2**20
"""No published model has a larger width, vocabulary or count; a file that says so is damaged."""
LARGEST_CONTEXT = 2**31

HF_BOOKKEEPING = (
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "use_cache",
    "initializer_range",
    "attention_dropout",
    "pretraining_tp",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "_attn_implementation_autoset",
    "tokenizer_class",
    "max_length",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "is_decoder",
    "add_cross_attention",
    "id2label",
    "label2id",
    "problem_type",
    "use_return_dict",
    "quantization_config",
    "task_specific_params",
)
"""Keys that many Hugging Face configs carry and that do not change the forward pass.

`quantization_config` says how the weights are stored: weights/published.py reads it.
"""


class TensorSource(Protocol):
    """What a dialect may ask of a checkpoint: raw config, shapes and single tensors."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def num_shards(self) -> int: ...

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor: ...


@dataclass(frozen=True)
class Derived:
    """A parameter that one form stores otherwise: cut out of a fused tensor, transposed, in pieces.

    `make(config, *weights)` gives our parameter from the tensors `names`, each as it is stored.
    `split(config, weight)` is the inverse, for the forms that bobot writes.
    """

    names: tuple[str, ...]
    make: Callable[..., Weight]
    split: Callable[[Any, Weight], tuple[Weight, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one published form names the tensors and the settings of a family.

    `names` maps our parameter name to theirs, `{n}` standing for the layer number; the identity
    where a name is absent. A name of theirs with `{e}` stands for one tensor per expert, stacked
    along our first axis; a `Derived` is made of theirs by a function. `pairs` lists our parameters
    whose rows rotate adjacent pairs there, with their number of heads. `ignored` are tensors
    (templates too) that the model does not need; `ignored_prefixes` are the beginnings of more such
    names, where the settings say which.

    In the forms that bobot writes, `settings(config)` is the inverse of `config`: config.json, or
    the metadata of a GGUF file; `computed(config)` are tensors there that no parameter makes.
    """

    config: Callable[[TensorSource], Any]
    names: Mapping[str, str | Derived]
    pairs: Mapping[str, Callable[[Any], int]]
    ignored: tuple[str, ...] = ()
    ignored_prefixes: Callable[[Any], tuple[str, ...]] = lambda config: ()
    settings: Callable[[Any], dict[str, object]] | None = None
    computed: Callable[[Any], dict[str, Tensor]] = lambda config: {}


class Fields:
    """Takes the settings out of a raw config one by one; `done` refuses whatever is left."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.left = dict(raw)
        self.source = source

    def take(
        self,
        key: str,
        kind: type[T],
        default: T | None = _REQUIRED,
        *,
        minimum: float | None = None,
        maximum: float = math.inf,
    ) -> T:
        """The value of `key` as `kind`; `default` when absent or null. ConfigError otherwise.

        A whole number is at most LARGEST_SIZE unless `maximum` says otherwise.
        """
        value: Any = self.left.pop(key, None)
        if value is None:
            if default is _REQUIRED:
                raise ConfigError(
                    "{source}: the key {key} is missing; it must be {kind}.",
                    hint="Download the file again from its publisher.",
                    source=self.source,
                    key=key,
                    kind=kind.__name__,
                )
            return default  # pyright: ignore[reportReturnType]
        if kind is float and type(value) is int:
            value = float(value)
        if kind is int and maximum == math.inf:
            maximum = LARGEST_SIZE
        if not _fits(value, kind, minimum, maximum):
            low = "" if minimum is None else f", at least {minimum}"
            high = "" if maximum == math.inf else f", at most {maximum}"
            raise self.wrong(key, value, kind.__name__ + low + high)
        return value

    def take_one_of(self, key: str, allowed: Iterable[Any], default: Any = _REQUIRED) -> Any:
        """The value of `key`, which must be among `allowed`."""
        value = self.left.pop(key, None)
        if value is None and default is not _REQUIRED:
            return default
        if value not in (choices := list(allowed)):
            raise self.wrong(key, value, " or ".join(repr(choice) for choice in choices))
        return value

    def ignore(self, *keys: str) -> None:
        for key in keys:
            self.left.pop(key, None)

    def done(self) -> None:
        if self.left:
            raise ConfigError(
                "{source}: unknown key {key} (value {value!r}); this family has no such setting.",
                hint="If a newer model needs it, update bobot; otherwise remove it.",
                source=self.source,
                key=min(self.left),
                value=self.left[min(self.left)],
            )

    def wrong(self, key: str, value: object, allowed: str) -> ConfigError:
        return ConfigError(
            "{source}: {key} is {value!r}; allowed: {allowed}.",
            hint="Download the file again, or correct the value.",
            source=self.source,
            key=key,
            value=value,
            allowed=allowed,
        )


def _fits(value: Any, kind: type, minimum: float | None, maximum: float) -> bool:
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        return False
    return kind in (bool, str) or (-math.inf if minimum is None else minimum) <= value <= maximum


def gguf_fields(source: TensorSource, architecture: str) -> Fields:
    """The architecture's keys of a GGUF header, without its name in front; those of others
    (general, tokenizer, split) are not settings.
    """
    prefix = f"{architecture}."
    settings = {k[len(prefix) :]: v for k, v in source.config.items() if k.startswith(prefix)}
    return Fields(settings, f"GGUF header ({architecture}.*)")


def check_active_experts(num_active: int, num_experts: int) -> None:
    """Raises ConfigError if a token is to pass more experts than there are."""
    if num_active > num_experts:
        raise ConfigError(
            "num_experts_per_tok is {active}; there are only {experts} experts.",
            active=num_active,
            experts=num_experts,
        )


def rope_from_hf(fields: Fields) -> RopeParameters:
    """Rotary settings in either form: flat `rope_theta` + `rope_scaling`, or nested
    `rope_parameters`.

    Both present and different is refused, since one of them must be wrong.
    """
    theta = fields.left.pop("rope_theta", None)
    scaling = fields.left.pop("rope_scaling", None)
    nested = fields.left.pop("rope_parameters", None)
    flat = None
    if theta is not None or scaling is not None:
        flat = _rope(
            {"rope_theta": theta, **(_mapping(fields, "rope_scaling", scaling))}, fields.source
        )
    if nested is None:
        return flat if flat is not None else RopeParameters()
    rope = _rope(_mapping(fields, "rope_parameters", nested), fields.source)
    if flat is not None and theta is None:
        flat = RopeParameters(**{**vars(flat), "theta": rope.theta})
    if flat is not None and scaling is None:
        flat = RopeParameters(**{**vars(rope), "theta": flat.theta})
    if flat is not None and flat != rope:
        raise ConfigError(
            "{source}: rope_theta and rope_scaling say {flat}, rope_parameters says {nested}; "
            "they must agree.",
            hint="Keep the one that the model was trained with.",
            source=fields.source,
            flat=flat,
            nested=rope,
        )
    return rope


def _mapping(fields: Fields, key: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fields.wrong(key, value, "an object, or null")
    return value


def _rope(raw: Mapping[str, Any], source: str) -> RopeParameters:
    fields = Fields(raw, source)
    kinds = ("default", "linear", "llama3", "yarn")
    old_name = fields.left.pop("type", None)
    kind = fields.left.pop("rope_type", None) or old_name or "default"
    if kind not in kinds:
        raise fields.wrong("rope_type", kind, ", ".join(kinds))
    if old_name is not None and old_name != kind:
        raise fields.wrong("type", old_name, f"the same as rope_type ({kind})")
    values: dict[str, Any] = {
        "kind": kind,
        "theta": fields.take("rope_theta", float, 10000.0, minimum=1.0),
    }
    if kind != "default":
        values["factor"] = fields.take("factor", float, minimum=1.0)
    if kind == "yarn":
        if values["theta"] == 1:
            raise fields.wrong("rope_theta", 1, "> 1, for yarn")
        values |= _yarn(fields)
    if kind == "llama3":
        values["low_freq_factor"] = fields.take("low_freq_factor", float, minimum=0.0)
        values["high_freq_factor"] = fields.take("high_freq_factor", float, minimum=0.0)
        values["original_max_position_embeddings"] = fields.take(
            "original_max_position_embeddings", int, minimum=1
        )
        if values["high_freq_factor"] <= values["low_freq_factor"]:
            raise fields.wrong(
                "high_freq_factor",
                values["high_freq_factor"],
                f"> low_freq_factor ({values['low_freq_factor']})",
            )
    fields.done()
    return RopeParameters(**values)


def _yarn(fields: Fields) -> dict[str, Any]:
    values: dict[str, Any] = {
        "original_max_position_embeddings": fields.take(
            "original_max_position_embeddings", int, minimum=1
        ),
        "beta_fast": fields.take("beta_fast", float, 32.0, minimum=1e-3, maximum=1e6),
        "beta_slow": fields.take("beta_slow", float, 1.0, minimum=1e-3, maximum=1e6),
        "truncate": fields.take("truncate", bool, True),
    }
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if fields.left.get(key) is not None:
            values[key] = fields.take(key, float, minimum=0.0)
        fields.ignore(key)
    if values["beta_fast"] < values["beta_slow"]:
        raise fields.wrong(
            "beta_fast", values["beta_fast"], f">= beta_slow ({values['beta_slow']})"
        )
    return values


def rope_to_hf(rope: RopeParameters, head_dim: int) -> dict[str, object]:
    """`rope_theta` and `rope_scaling`, the flat form, which every version of transformers reads.

    Raises ConfigError for divisors that no such setting gives.
    """
    if rope.freq_divisors:
        rope = _llama3_from_divisors(rope, head_dim)
    scaling: dict[str, object] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind != "linear":
        scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings
    if rope.kind == "llama3":
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
    if rope.kind == "yarn":
        optional = ("attention_factor", "mscale", "mscale_all_dim")
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        scaling["truncate"] = rope.truncate
        scaling |= {key: getattr(rope, key) for key in optional if getattr(rope, key) is not None}
    return {"rope_theta": rope.theta, "rope_scaling": None if rope.kind == "default" else scaling}


def _llama3_from_divisors(rope: RopeParameters, head_dim: int) -> RopeParameters:
    """Llama 3.1's settings that give the same divisors, with its bounds of 1 and 4 turns.

    The largest divisor is the factor; of a frequency between the bounds the divisor shows how
    often it turns within the original length, and so that length.
    """
    divisors = torch.tensor(rope.freq_divisors, dtype=torch.float64)
    found = replace(rope, kind="llama3", factor=divisors.max().item(), freq_divisors=())
    low, high = found.low_freq_factor, found.high_freq_factor
    kept = ((1 / divisors - 1 / found.factor) / (1 - 1 / found.factor)).clamp(0, 1)
    wavelengths = 2 * math.pi / inverse_frequencies(RopeParameters(theta=rope.theta), head_dim)
    lengths = (wavelengths * (low + kept * (high - low))).round().int().tolist()
    between = [length for length, part in zip(lengths, kept.tolist(), strict=True) if 0 < part < 1]
    for length in (found.original_max_position_embeddings, *between):
        found = replace(found, original_max_position_embeddings=length)
        same = frequency_divisors(found, head_dim).double()
        if torch.allclose(same, divisors, rtol=1e-5):
            return found
    raise ConfigError(
        "rope_freqs.weight divides the frequencies by 1 to {largest}, in a way that no "
        "rope_scaling of Hugging Face describes.",
        hint="Export from the files that this GGUF was made of.",
        largest=found.factor,
    )


def frequency_divisors(rope: RopeParameters, head_dim: int) -> Tensor:
    """What scaling divides each frequency by, as GGUF stores it: float32 (head_dim / 2)."""
    plain = RopeParameters(theta=rope.theta)
    return inverse_frequencies(plain, head_dim) / inverse_frequencies(rope, head_dim)
