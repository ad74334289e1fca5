"""GPTQ for a whole model: each layer sees what the layers before it, already rounded, give it.

The calibration tokens pass the model once. When they reach a layer, its weights are widened to
float32 and what every matrix is multiplied by is remembered; the matrices are rounded, and the
layer runs again to say what the next one sees. In memory: one layer in float32, its inputs, and
the packed matrices of all layers before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bobot.errors import UsageError
from bobot.layers.context import PackedAttention
from bobot.quant.gptq import gptq
from bobot.quant.grid import Grid
from bobot.quant.weight import QuantWeight, stack
from bobot.text import Tokenizer
from bobot.weights.export import Progress
from bobot.weights.quantize import rounded

SEQUENCE_TOKENS = 512
MAX_TOKENS = 64 * SEQUENCE_TOKENS
MIN_TOKENS = 4 * SEQUENCE_TOKENS
MIN_TOKENS_PER_INPUT = 0.25
"""An expert that saw fewer tokens than this share of its inputs is rounded to nearest: so few
directions say little about the rest."""


@dataclass
class Calibrated:
    """The rounded matrices by name, and which of them calibration could not serve."""

    weights: dict[str, QuantWeight] = field(default_factory=dict)
    num_experts_unseen: int = 0
    """Experts' matrices that too few tokens reached."""
    num_unseen: int = 0
    """Matrices that are not multiplied as such (the fused halves of kv_b_proj)."""


def calibration_sequences(tokenizer: Tokenizer, text: str, max_model_len: int) -> list[list[int]]:
    """The text as sequences of equal length, each with the beginning token where the model has one;
    special tokens written in it count, so that a file of rendered chats is one.

    Raises UsageError for a text too short to say anything.
    """
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    ids = tokenizer.encode(text, allow_special=True)
    if len(ids) < MIN_TOKENS:
        raise UsageError(
            "the calibration text has {found} tokens; at least {wanted} are needed.",
            hint="Give a longer text, of the kind the model will work on.",
            found=len(ids),
            wanted=MIN_TOKENS,
        )
    length = min(SEQUENCE_TOKENS, max_model_len) - len(bos)
    starts = range(0, min(len(ids), MAX_TOKENS) - length + 1, length)
    return [bos + ids[start : start + length] for start in starts]


def calibrate(
    model: Any,
    grid: Grid,
    names: Sequence[str],
    sequences: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> Calibrated:
    """The matrices `names` of the model's layers, rounded by GPTQ for these sequences of ids. The
    model is used up: its layers are rounded in place.
    """
    found = Calibrated()
    layers = list(model.model.layers)
    hooks = []
    for number, layer in enumerate(layers):
        prefix = f"model.layers.{number}."
        inside = [name for name in names if name.startswith(prefix)]
        rounding = _Rounding(grid, prefix, inside, found)
        hooks.append(layer.register_forward_pre_hook(rounding.widen))
        hooks.append(layer.register_forward_hook(rounding.round_and_rerun))
        if progress is not None:
            hooks.append(layer.register_forward_hook(_telling(progress, number + 1, len(layers))))
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + len(sequence))
    ids_T = torch.tensor([token for sequence in sequences for token in sequence])
    positions_T = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    with torch.no_grad():
        model(ids_T, positions_T, PackedAttention(starts[:-1]))
    for hook in hooks:
        hook.remove()
    return found


def _telling(progress: Progress, done: int, total: int) -> Callable[..., None]:
    def tell(*_: object) -> None:
        progress(done, total)

    return tell


@dataclass
class _Rounding:
    """What happens to one layer while the calibration tokens pass it."""

    grid: Grid
    prefix: str
    names: list[str]
    found: Calibrated

    def __post_init__(self) -> None:
        self.recorder = _Recorder()

    def widen(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Weights and inputs in float32; from here on products are remembered."""
        widen_weights(layer)
        for name in self.names:
            parameter = layer.get_parameter(name.removeprefix(self.prefix))
            self.recorder.watch(name, parameter)
        self.recorder.__enter__()
        return tuple(
            arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg
            for arg in args
        )

    def round_and_rerun(self, layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        self.recorder.__exit__(None, None, None)
        hessians = _Hessians(self.recorder.inputs)
        for name in self.names:
            leaf = name.removeprefix(self.prefix)
            parameter = layer.get_parameter(leaf)
            packed = self._round(name, parameter.detach(), hessians)
            self.found.weights[name] = packed
            parameter.data = packed.dequantize()
        self.recorder.inputs.clear()
        out = layer.forward(*args)
        for name in self.names:
            path, _, leaf = name.removeprefix(self.prefix).rpartition(".")
            owner = layer.get_submodule(path)
            delattr(owner, leaf)  # the widened values; the packed ones are in `found`
        return out

    def _round(self, name: str, weight: Tensor, hessians: _Hessians) -> QuantWeight:
        if weight.ndim == 2:
            hessian = hessians.of((name, None))
            if hessian is None:
                self.found.num_unseen += 1
                return rounded(weight, self.grid)
            return gptq(weight, hessian, self.grid)
        packed = []
        for e in range(weight.shape[0]):
            hessian = hessians.of((name, e), MIN_TOKENS_PER_INPUT * weight.shape[-1])
            self.found.num_experts_unseen += hessian is None
            one = weight[e]
            packed.append(
                rounded(one, self.grid) if hessian is None else gptq(one, hessian, self.grid)
            )
        whole = stack(packed)
        assert isinstance(whole, QuantWeight)
        return whole


def widen_weights(module: nn.Module) -> None:
    """All weights of the module as float32 parameters, packed ones unpacked."""
    for part in module.modules():
        values = {**part._parameters, **_packed_attributes(part)}
        for name, value in values.items():
            if value is None:
                continue
            wide = value.dequantize() if isinstance(value, QuantWeight) else value.float()
            delattr(part, name)
            setattr(part, name, nn.Parameter(wide, requires_grad=False))


def _packed_attributes(module: nn.Module) -> dict[str, QuantWeight]:
    """The loader puts packed weights where the parameters were, as plain attributes."""
    return {name: value for name, value in vars(module).items() if isinstance(value, QuantWeight)}


Key = tuple[str, int | None]


class _Recorder(TorchFunctionMode):
    """Remembers what watched matrices are multiplied by. A matrix is known by where it lies in
    memory, so that an expert is recognised when it is taken out of its stack.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[int, Key] = {}
        self.inputs: dict[Key, Tensor] = {}

    def watch(self, name: str, weight: Tensor) -> None:
        if weight.ndim == 2:
            self.keys[weight.data_ptr()] = (name, None)
        else:
            self.keys |= {weight[e].data_ptr(): (name, e) for e in range(weight.shape[0])}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping | None = None
    ) -> Any:
        if func is nn.functional.linear:
            key = self.keys.get(args[1].data_ptr())
            if key is not None:
                self.inputs[key] = args[0].detach()
        return func(*args, **(kwargs or {}))


class _Hessians:
    """X^T X of recorded inputs, made when asked for; matrices with one input in turn share it."""

    def __init__(self, inputs: Mapping[Key, Tensor]) -> None:
        self.inputs = inputs
        self._last: tuple[Tensor, Tensor] | None = None

    def of(self, key: Key, min_tokens: float = 1) -> Tensor | None:
        x_TD = self.inputs.get(key)
        if x_TD is None or x_TD.shape[0] < min_tokens:
            return None
        if self._last is None or self._last[0] is not x_TD:
            self._last = (x_TD, x_TD.T @ x_TD)
        return self._last[1]
