"""A checkpoint opened with the model it belongs to: which of its tensors make up which of our
parameters, every name accounted for both ways; weights are read one by one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bobot.checkpoints import Checkpoint, open_checkpoint
from bobot.errors import CheckpointError
from bobot.models.config import Derived, Dialect
from bobot.models.registry import Family, family_of
from bobot.ops.rope import halves_from_pairs
from bobot.quant.tiles import TileFormat
from bobot.quant.weight import QuantWeight, Weight, change_rows, stack
from bobot.weights.published import PackedForm, packed_form, read_packed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

EMBEDDING = "model.embed_tokens.weight"

MAX_TENSORS = 2**19
"""More than any published model has (Kimi K2 Thinking: 208,215)."""


def model_dtype(weights: Iterable[tuple[str, Weight, int]]) -> torch.dtype:
    """The dtype that a model runs in, of its parameters' names, weights (or samples) and bytes: the
    one of most plain bytes. Where the embedding is packed as well, so that only norms and the like
    are plain, float32 ones do not decide: bfloat16.
    """
    plain: Counter[torch.dtype] = Counter()
    is_packed = False
    for name, weight, num_bytes in weights:
        if (plain_dtype := _plain_dtype(weight)) is not None:
            plain[plain_dtype] += num_bytes
        elif name == EMBEDDING:
            is_packed = True
    dtype = plain.most_common(1)[0][0] if plain else torch.bfloat16
    return torch.bfloat16 if is_packed and dtype == torch.float32 else dtype


def _plain_dtype(weight: Weight) -> torch.dtype | None:
    """Of a weight that is not packed, as tiles or not."""
    if isinstance(weight, Tensor):
        return weight.dtype
    form = weight.format
    return DTYPES.get(form.layout.kernel) if isinstance(form, TileFormat) else None


@dataclass(frozen=True)
class ModelSource:
    """The files of a model, its family, and how to find our parameters in them."""

    checkpoint: Checkpoint
    family: Family
    config: Any
    model: Any
    """On the meta device: names and shapes, no memory."""
    form: PackedForm | None

    @property
    def dialect(self) -> Dialect:
        return self.family.dialects[self.checkpoint.dialect]

    @property
    def name(self) -> str:
        return self.checkpoint.path.name

    def read(self, name: str) -> Weight:
        """Our parameter `name`, with its shape: a tensor, a stack of one per expert, or made of
        theirs. Packed if it is stored so.
        """
        shape = tuple(self.model.get_parameter(name).shape)
        template, _ = split_name(name)
        names = source_names(name, shape, self.dialect)
        found = self.dialect.names.get(template)
        if isinstance(found, Derived):
            stored = [self._read_stored(theirs, None) for theirs in names]
            return self._checked(name, shape, found.make(self.config, *stored))
        if isinstance(found, str) and "{e}" in found:
            stored = [self._read_stored(theirs, shape[1:]) for theirs in names]
            self._check_alike(names, stored)
            return self._checked(name, shape, stack(stored))
        weight = self._read_stored(names[0], shape)
        if template in self.dialect.pairs:
            heads = self.dialect.pairs[template](self.config)
            weight = change_rows(weight, lambda part: halves_from_pairs(part, heads))
        return self._checked(name, shape, weight)

    def stored_dtypes(self, name: str) -> tuple[str, ...]:
        """In which dtypes the files hold our parameter; none where only its parts have names."""
        shape = tuple(self.model.get_parameter(name).shape)
        tensors = self.checkpoint.tensors
        theirs = source_names(name, shape, self.dialect)
        return tuple(sorted({tensors[name].dtype for name in theirs if name in tensors}))

    def sample(self, name: str) -> Weight:
        """`read`, but of a stack that the files hold in pieces only the first matrix."""
        template, _ = split_name(name)
        found = self.dialect.names.get(template)
        if not (isinstance(found, str) and "{e}" in found):
            return self.read(name)
        shape = tuple(self.model.get_parameter(name).shape)
        return self._read_stored(source_names(name, shape, self.dialect)[0], shape[1:])

    def read_expert(self, name: str, e: int) -> Weight:
        """Matrix `e` of the stack `name`, without the others where the files hold them apart."""
        template, _ = split_name(name)
        found = self.dialect.names.get(template)
        if not (isinstance(found, str) and "{e}" in found):
            return self.read(name)[e]
        shape = tuple(self.model.get_parameter(name).shape)
        theirs = source_names(name, shape, self.dialect)[e]
        return self._checked(name, shape[1:], self._read_stored(theirs, shape[1:]))

    def check_tied(self) -> None:
        """A tensor that the settings tie to another may be stored twice, but then with equal
        values.
        """
        first_names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            kept = first_names[id(parameter)]
            if name == kept:
                continue
            shape = tuple(parameter.shape)
            (twin,), (first,) = (source_names(n, shape, self.dialect) for n in (name, kept))
            if twin not in self.checkpoint.tensors:
                continue
            if not torch.equal(
                self.checkpoint.read(first, shape), self.checkpoint.read(twin, shape)
            ):
                raise CheckpointError(
                    "{path}: the settings tie {twin} to {kept}, but the two tensors differ.",
                    hint="Correct tie_word_embeddings, or download settings and weights together.",
                    path=self.name,
                    twin=twin,
                    kept=first,
                )

    def ignored(self) -> tuple[str, ...]:
        """Names that are known and not needed; raises CheckpointError for missing and unexpected
        tensors.
        """
        tensors, dialect = self.checkpoint.tensors, self.dialect
        needed = self._stored_names(self.model.named_parameters())
        tied = self._stored_names(self.model.named_parameters(remove_duplicate=False)) - needed
        if missing := sorted(needed - tensors.keys()):
            raise CheckpointError(
                "{path}: {count} tensor(s) missing, the first is {name}.",
                hint="A shard is absent, or the settings belong to another model: "
                "download it again.",
                path=self.name,
                count=len(missing),
                name=missing[0],
            )
        prefixes = dialect.ignored_prefixes(self.config)
        ignored = {
            name
            for name in tensors
            if name in tied or split_name(name)[0] in dialect.ignored or name.startswith(prefixes)
        }
        if unexpected := sorted(tensors.keys() - needed - ignored):
            raise CheckpointError(
                "{path}: {count} unexpected tensor(s), the first is {name}; the settings describe "
                "a model without it.",
                hint="Settings and weights belong to different models: download them together.",
                path=self.name,
                count=len(unexpected),
                name=unexpected[0],
            )
        return tuple(sorted(ignored))

    def _stored_names(self, parameters: Iterable[tuple[str, Tensor]]) -> set[str]:
        """What the files call these; not all of them once there are more than any model has."""
        stored: set[str] = set()
        for name, parameter in parameters:
            for theirs in source_names(name, tuple(parameter.shape), self.dialect):
                form = self.form if self._is_packed(theirs) else None
                stored.update([theirs] if form is None else form.names(theirs).values())
            if len(stored) > MAX_TENSORS:
                break
        return stored

    def _is_packed(self, theirs: str) -> bool:
        """Whether `theirs` is stored as parts: the part that only a packed weight has is there."""
        if self.form is None:
            return False
        return any(
            suffix and theirs + suffix in self.checkpoint.tensors
            for suffix in self.form.suffixes.values()
        )

    def _read_stored(self, theirs: str, shape: tuple[int, ...] | None) -> Weight:
        """The tensor of that shape (None: as stored), packed if the checkpoint has it so."""
        if self.form is not None and self._is_packed(theirs):
            weight = read_packed(self.checkpoint, self.form, theirs)
            self._check_shape(theirs, tuple(weight.shape), shape or tuple(weight.shape))
            return weight
        wanted = self.checkpoint.tensors[theirs].shape if shape is None else shape
        return self.checkpoint.read_weight(theirs, wanted)

    def _check_alike(self, names: list[str], weights: list[Weight]) -> None:
        """The experts of a layer are stacked, so all are packed in the same way or none is."""
        forms = [w.format.name if isinstance(w, QuantWeight) else str(w.dtype) for w in weights]
        for name, form in zip(names, forms, strict=True):
            if form != forms[0]:
                raise CheckpointError(
                    "{path}: {name} is stored as {found}, but {first} as {wanted}; the experts of "
                    "a layer must be alike.",
                    hint="Download the file again, or choose another quantization of the model.",
                    path=self.name,
                    name=name,
                    found=form.removeprefix("torch."),
                    first=names[0],
                    wanted=forms[0].removeprefix("torch."),
                )

    def _check_shape(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if found != wanted:
            raise CheckpointError(
                "{path}: {name} would have shape {found} from these files; the settings need "
                "{wanted}.",
                hint="Settings and weights belong to different models: download them together.",
                path=self.name,
                name=name,
                found=list(found),
                wanted=list(wanted),
            )

    def _checked(self, name: str, shape: tuple[int, ...], weight: Weight) -> Weight:
        """The weight if it has the parameter's shape and a dtype that models run in; a packed one
        that is no matrix is unpacked, for only products know packed weights.
        """
        self._check_shape(name, tuple(weight.shape), shape)
        if isinstance(weight, QuantWeight):
            return weight if weight.ndim > 1 else weight.dequantize()
        if weight.dtype not in DTYPES.values():
            raise CheckpointError(
                "{path}: the tensor {name} is {found}; a weight must be {allowed}.",
                hint="This form is not supported yet; choose one in bf16, f16, f32 or GGUF.",
                path=self.name,
                name=name,
                found=str(weight.dtype).removeprefix("torch."),
                allowed=", ".join(DTYPES),
            )
        return weight


@contextmanager
def open_model(path: str | Path) -> Iterator[ModelSource]:
    """The model of a checkpoint folder or file, laid out; nothing is read yet.

    Raises ConfigError, CheckpointError.
    """
    with open_checkpoint(Path(path)) as checkpoint:
        family = family_of(checkpoint, checkpoint.dialect)
        config = family.dialects[checkpoint.dialect].config(checkpoint)
        _check_num_layers(config, checkpoint)
        model = build_on_meta(family, config)
        yield ModelSource(checkpoint, family, config, model, packed_form(checkpoint))


def build_on_meta(family: Family, config: Any) -> Any:
    """The family's model with parameters that have shapes and no memory."""
    with torch.device("meta"), _WithoutInitialization():
        return family.model(config)


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


def source_names(name: str, shape: tuple[int, ...], dialect: Dialect) -> list[str]:
    """What the dialect calls our parameter: one name, one per expert in their order, or all that
    it is derived from.
    """
    template, n = split_name(name)
    found = dialect.names.get(template, template)
    if isinstance(found, Derived):
        return [theirs.replace("{n}", n) for theirs in found.names]
    theirs = found.replace("{n}", n)
    if "{e}" not in theirs:
        return [theirs]
    return [theirs.replace("{e}", str(e)) for e in range(shape[0])]


def split_name(name: str) -> tuple[str, str]:
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
