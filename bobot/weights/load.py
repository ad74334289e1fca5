"""Join a family's definition with a checkpoint's tensors, every name accounted for both ways."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bobot.checkpoints import Checkpoint, open_checkpoint
from bobot.errors import CheckpointError, UsageError
from bobot.layers.linear import Embedding
from bobot.models.config import Derived, Dialect
from bobot.models.registry import Family, family_of
from bobot.ops.rope import halves_from_pairs
from bobot.quant.weight import QuantWeight, Weight, change_rows, stack
from bobot.weights.published import PackedForm, packed_form, read_packed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadReport:
    """What was loaded and what was decided on the way."""

    family: str
    dialect: str
    dtype: torch.dtype
    num_parameters: int
    num_bytes: int
    ignored: tuple[str, ...]
    generation_config: dict[str, Any]


def load_model(
    path: str | Path,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> tuple[Any, LoadReport]:
    """The model of a checkpoint folder or file, in eval mode, without gradients.

    dtype None keeps the checkpoint's own (the one that most of its bytes have); tensors already in
    that dtype stay memory-mapped. `progress(done, total)` counts parameters.
    Raises ConfigError, CheckpointError (a missing, unexpected or misshapen tensor, by name).
    """
    target = torch_dtype(dtype)
    with open_checkpoint(Path(path)) as checkpoint:
        family = family_of(checkpoint, checkpoint.dialect)
        dialect = family.dialects[checkpoint.dialect]
        config = dialect.config(checkpoint)
        _check_num_layers(config, checkpoint)
        model = build_on_meta(family, config)
        source = _Source(checkpoint, dialect, packed_form(checkpoint), config)
        ignored = _check_names(model, source)
        state = _read_all(model, source, progress)
        _check_tied(model, source)
        if target is None:
            target = _main_dtype(state)
        generation_config = dict(checkpoint.generation_config)
    keep = getattr(model, "float32_parameters", ())
    for name, weight in state.items():
        wanted = torch.float32 if _template(name)[0] in keep else target
        is_packed = isinstance(weight, QuantWeight)
        state[name] = weight.to(device) if is_packed else weight.to(device=device, dtype=wanted)
    _assign(model, state, target)
    model.eval().requires_grad_(False)
    report = LoadReport(
        family=family.name,
        dialect=checkpoint.dialect,
        dtype=target,
        num_parameters=sum(weight.numel() for weight in state.values()),
        num_bytes=sum(weight.nbytes for weight in state.values()),
        ignored=ignored,
        generation_config=generation_config,
    )
    return model, report


def build_on_meta(family: Family, config: Any) -> Any:
    """The family's model with parameters that have shapes and no memory."""
    with torch.device("meta"), _WithoutInitialization():
        return family.model(config)


@dataclass(frozen=True)
class _Source:
    """A checkpoint, and how to find our parameters in it."""

    checkpoint: Checkpoint
    dialect: Dialect
    form: PackedForm | None
    config: Any

    @property
    def name(self) -> str:
        return self.checkpoint.path.name

    def is_packed(self, theirs: str) -> bool:
        """Whether `theirs` is stored as parts: the part that only a packed weight has is there."""
        if self.form is None:
            return False
        return any(
            suffix and theirs + suffix in self.checkpoint.tensors
            for suffix in self.form.suffixes.values()
        )

    def stored_names(self, theirs: str) -> list[str]:
        if self.form is not None and self.is_packed(theirs):
            return [*self.form.names(theirs).values()]
        return [theirs]

    def read(self, theirs: str, shape: tuple[int, ...] | None) -> Weight:
        """The tensor of that shape (None: as stored), packed if the checkpoint has it so."""
        if self.form is not None and self.is_packed(theirs):
            return read_packed(self.checkpoint, self.form, theirs)
        wanted = self.checkpoint.tensors[theirs].shape if shape is None else shape
        return self.checkpoint.read_weight(theirs, wanted)


class _WithoutInitialization(TorchFunctionMode):
    """Leaves new parameters as they are: on the meta device torch's initializers import its
    compiler, which doubles the time of a cold start.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The torch dtype of a name. Raises UsageError for one that models can't run in."""
    if dtype is None or dtype in DTYPES.values():
        return dtype  # pyright: ignore[reportReturnType]
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UsageError(
            "dtype is {found!r}; allowed: {allowed}, or none for the checkpoint's own.",
            found=name,
            allowed=", ".join(DTYPES),
        )
    return DTYPES[name]


def source_names(name: str, parameter: Tensor, dialect: Dialect) -> list[str]:
    """What the dialect calls our parameter: one name, one per expert in their order, or all that
    it is derived from.
    """
    template, n = _template(name)
    found = dialect.names.get(template, template)
    if isinstance(found, Derived):
        return [theirs.replace("{n}", n) for theirs in found.names]
    theirs = found.replace("{n}", n)
    if "{e}" not in theirs:
        return [theirs]
    return [theirs.replace("{e}", str(e)) for e in range(parameter.shape[0])]


def _template(name: str) -> tuple[str, str]:
    """The name with its layer number cut out, and the number: model.layers.3.x ->
    model.layers.{n}.x, 3.
    """
    match = re.search(r"(?<=\.)\d+(?=\.)", f".{name}")
    if match is None:
        return name, ""
    start, end = match.start() - 1, match.end() - 1
    return f"{name[:start]}{{n}}{name[end:]}", name[start:end]


def _check_num_layers(config: Any, checkpoint: Checkpoint) -> None:
    """Refuses more layers than there are tensors, before a model of that size is laid out."""
    if config.num_hidden_layers > len(checkpoint.tensors):
        raise CheckpointError(
            "{path}: the settings describe {found} layers, but the files hold {count} tensors.",
            hint="Settings and weights belong to different models: download them together.",
            path=checkpoint.path.name,
            found=config.num_hidden_layers,
            count=len(checkpoint.tensors),
        )


def _check_names(model: nn.Module, source: _Source) -> tuple[str, ...]:
    """Refuses missing and unexpected tensors; returns the names that are known and not needed."""
    checkpoint, dialect = source.checkpoint, source.dialect

    def names_of(parameters: Iterable[tuple[str, Tensor]]) -> set[str]:
        theirs = {t for name, p in parameters for t in source_names(name, p, dialect)}
        return {stored for name in theirs for stored in source.stored_names(name)}

    needed = names_of(model.named_parameters())
    tied = names_of(model.named_parameters(remove_duplicate=False)) - needed
    if missing := sorted(needed - checkpoint.tensors.keys()):
        raise CheckpointError(
            "{path}: {count} tensor(s) missing, the first is {name}.",
            hint="A shard is absent, or the settings belong to another model: download it again.",
            path=checkpoint.path.name,
            count=len(missing),
            name=missing[0],
        )
    prefixes = dialect.ignored_prefixes(source.config)
    ignored = {
        name
        for name in checkpoint.tensors
        if name in tied or _template(name)[0] in dialect.ignored or name.startswith(prefixes)
    }
    if unexpected := sorted(checkpoint.tensors.keys() - needed - ignored):
        raise CheckpointError(
            "{path}: {count} unexpected tensor(s), the first is {name}; the settings describe a "
            "model without it.",
            hint="Settings and weights belong to different models: download them together.",
            path=checkpoint.path.name,
            count=len(unexpected),
            name=unexpected[0],
        )
    return tuple(sorted(ignored))


def _check_tied(model: nn.Module, source: _Source) -> None:
    """A tensor that the settings tie to another may be stored twice, but then with equal values."""
    checkpoint, dialect = source.checkpoint, source.dialect
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = next(first for first, other in model.named_parameters() if other is parameter)
        if name == kept:
            continue
        (twin,), (first,) = (source_names(n, parameter, dialect) for n in (name, kept))
        if twin not in checkpoint.tensors:
            continue
        shape = tuple(parameter.shape)
        if not torch.equal(checkpoint.read(first, shape), checkpoint.read(twin, shape)):
            raise CheckpointError(
                "{path}: the settings tie {twin} to {kept}, but the two tensors differ.",
                hint="Correct tie_word_embeddings, or download settings and weights together.",
                path=checkpoint.path.name,
                twin=twin,
                kept=first,
            )


def _read_all(model: nn.Module, source: _Source, progress: Progress | None) -> dict[str, Weight]:
    state: dict[str, Weight] = {}
    parameters = dict(model.named_parameters())
    for done, (name, parameter) in enumerate(parameters.items()):
        state[name] = _checked(source, name, tuple(parameter.shape), _read(source, name, parameter))
        if progress is not None:
            progress(done + 1, len(parameters))
    return state


def _read(source: _Source, name: str, parameter: Tensor) -> Weight:
    """One parameter: a tensor of its shape, a stack of one per expert, or made of theirs."""
    template, _ = _template(name)
    names = source_names(name, parameter, source.dialect)
    shape = tuple(parameter.shape)
    found = source.dialect.names.get(template)
    if isinstance(found, Derived):
        return found.make(source.config, *(source.read(theirs, None) for theirs in names))
    if isinstance(found, str) and "{e}" in found:
        return stack([source.read(theirs, shape[1:]) for theirs in names])
    weight = source.read(names[0], shape)
    num_heads = source.dialect.pairs.get(template)
    if num_heads is None:
        return weight
    heads = num_heads(source.config)
    return change_rows(weight, lambda part: halves_from_pairs(part, heads))


def _checked(source: _Source, name: str, shape: tuple[int, ...], weight: Weight) -> Weight:
    """The weight if it has the parameter's shape and a dtype that models run in; a packed one that
    is no matrix is unpacked, for only products know packed weights.
    """
    if tuple(weight.shape) != shape:
        raise CheckpointError(
            "{path}: {name} would have shape {found} from these files; the settings need {wanted}.",
            hint="Settings and weights belong to different models: download them together.",
            path=source.name,
            name=name,
            found=list(weight.shape),
            wanted=list(shape),
        )
    if isinstance(weight, QuantWeight):
        return weight if weight.ndim > 1 else weight.dequantize()
    if weight.dtype not in DTYPES.values():
        raise CheckpointError(
            "{path}: the tensor {name} is {found}; a weight must be {allowed}.",
            hint="This form is not supported yet; choose one in bf16, f16, f32 or GGUF.",
            path=source.name,
            name=name,
            found=str(weight.dtype).removeprefix("torch."),
            allowed=", ".join(DTYPES),
        )
    return weight


def _main_dtype(state: dict[str, Weight]) -> torch.dtype:
    """The dtype that most bytes of the plain weights have."""
    sizes: Counter[torch.dtype] = Counter()
    for weight in state.values():
        if isinstance(weight, Tensor):
            sizes[weight.dtype] += weight.nbytes
    return sizes.most_common(1)[0][0]


def _assign(model: nn.Module, state: dict[str, Weight], dtype: torch.dtype) -> None:
    """Put the weights in place of the meta parameters, tied ones in every place."""
    places = {
        id(p): [n for n, q in model.named_parameters(remove_duplicate=False) if q is p]
        for p in model.parameters()
    }
    for names in places.values():
        weight = state[next(name for name in names if name in state)]
        if isinstance(weight, Tensor):
            weight = nn.Parameter(weight, requires_grad=False)
        for name in names:
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            delattr(owner, leaf)
            setattr(owner, leaf, weight)
            if isinstance(owner, Embedding):
                owner.dtype = dtype
