"""Join a family's definition with a checkpoint's tensors, every name accounted for both ways."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bobot.checkpoints import Checkpoint, open_checkpoint
from bobot.errors import CheckpointError, UsageError
from bobot.models.config import Dialect
from bobot.models.registry import family_of
from bobot.ops.rope import halves_from_pairs

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
        with torch.device("meta"), _WithoutInitialization():
            model = family.model(config)
        ignored = _check_names(model, dialect, checkpoint)
        state = _read_all(model, dialect, checkpoint, config, progress)
        _check_tied(model, dialect, checkpoint)
        if target is None:
            target = _main_dtype(state)
        generation_config = dict(checkpoint.generation_config)
    state = {name: tensor.to(device=device, dtype=target) for name, tensor in state.items()}
    _assign(model, state)
    model.eval().requires_grad_(False)
    sizes = {id(p): (p.numel(), p.nbytes) for p in model.parameters()}.values()
    report = LoadReport(
        family=family.name,
        dialect=checkpoint.dialect,
        dtype=target,
        num_parameters=sum(size[0] for size in sizes),
        num_bytes=sum(size[1] for size in sizes),
        ignored=ignored,
        generation_config=generation_config,
    )
    return model, report


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
    """What the dialect calls our parameter: one name, or one per expert in their order."""
    template, n = _template(name)
    theirs = dialect.names.get(template, template).replace("{n}", n)
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


def _check_names(model: nn.Module, dialect: Dialect, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Refuses missing and unexpected tensors; returns the names that are known and not needed."""
    needed = {source for n, p in model.named_parameters() for source in source_names(n, p, dialect)}
    every = dict(model.named_parameters(remove_duplicate=False))
    tied = {source for n, p in every.items() for source in source_names(n, p, dialect)} - needed
    if missing := sorted(needed - checkpoint.tensors.keys()):
        raise CheckpointError(
            "{path}: {count} tensor(s) missing, the first is {name}.",
            hint="A shard is absent, or the settings belong to another model: download it again.",
            path=checkpoint.path.name,
            count=len(missing),
            name=missing[0],
        )
    ignored = {
        name for name in checkpoint.tensors if name in tied or _template(name)[0] in dialect.ignored
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


def _check_tied(model: nn.Module, dialect: Dialect, checkpoint: Checkpoint) -> None:
    """A tensor that the settings tie to another may be stored twice, but then with equal values."""
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


def _read_all(
    model: nn.Module,
    dialect: Dialect,
    checkpoint: Checkpoint,
    config: Any,
    progress: Progress | None,
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for done, (name, parameter) in enumerate(parameters.items()):
        theirs = source_names(name, parameter, dialect)
        tensor = _read(checkpoint, theirs, tuple(parameter.shape))
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(
                "{path}: the tensor {name} is {found}; a weight must be {allowed}.",
                hint="This form is not supported yet; choose one in bf16, f16, f32 or GGUF.",
                path=checkpoint.path.name,
                name=theirs[0],
                found=str(tensor.dtype).removeprefix("torch."),
                allowed=", ".join(DTYPES),
            )
        num_heads = dialect.pairs.get(_template(name)[0])
        state[name] = halves_from_pairs(tensor, num_heads(config)) if num_heads else tensor
        if progress is not None:
            progress(done + 1, len(parameters))
    return state


def _read(checkpoint: Checkpoint, names: list[str], shape: tuple[int, ...]) -> Tensor:
    """One tensor of that shape, or the stack of one tensor per expert."""
    if len(names) == 1 and len(checkpoint.tensors[names[0]].shape) == len(shape):
        return checkpoint.read(names[0], shape)
    return torch.stack([checkpoint.read(name, shape[1:]) for name in names])


def _main_dtype(state: dict[str, Tensor]) -> torch.dtype:
    """The dtype that most bytes of the checkpoint have."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def _assign(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put the tensors in place of the meta parameters, tied ones in every place."""
    places = {
        id(p): [n for n, q in model.named_parameters(remove_duplicate=False) if q is p]
        for p in model.parameters()
    }
    for names in places.values():
        first = next(name for name in names if name in state)
        parameter = nn.Parameter(state[first], requires_grad=False)
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, parameter)
