"""What a model on disk is, read from its small files and headers: nothing is loaded, no pickle is
executed.

Understands HF folders (config.json, safetensors headers), the own layouts of Meta, Mistral
(params.json), OpenAI (gpt-oss's original/) and xAI (ckpt-0), and GGUF. The reader of GGUF headers
is given by the caller (text/gguf_metadata.py lies on the same row as hub/).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bobot.errors import CheckpointError
from bobot.hub.names import gguf_parts
from bobot.hub.needed import GROK_FOLDER
from bobot.hub.parameters import StoredTensor, count_parameters, pickled_tensor

GgufReader = Callable[[Path], Any]
"""path -> an object with .metadata (a dict) and .tensors (each with .shape and .ggml_type)."""

MAX_JSON_BYTES = 100 << 20

GROK_CONTEXT = 8192
"""Tokens; xAI's checkpoint has no settings that could say so (run.py of xai-org/grok-1)."""

GGML_TYPES = {
    0: "float32",
    1: "float16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    29: "iq1_m",
    30: "bfloat16",
    39: "mxfp4",
}
"""ggml_type numbers (ggml.h) of the types bobot names; others are shown by number."""


@dataclass(frozen=True)
class Manifest:
    """One model on disk; None where its files do not say."""

    name: str
    path: str
    format: str
    architecture: str | None
    num_parameters: int | None
    dtype: str | None
    size_bytes: int
    context: int | None
    licence: str | None
    tokenizer: str | None
    has_chat_template: bool


def describe(name: str, path: Path, read_gguf: GgufReader) -> Manifest:
    """The manifest of the model at `path`; raises CheckpointError when a header is damaged."""
    if path.suffix == ".gguf":
        return _describe_gguf(name, path, read_gguf)
    folder = path if path.is_dir() else path.parent
    if (folder / GROK_FOLDER).is_dir():
        return _describe_grok(name, folder)
    is_hf = (folder / "config.json").is_file()
    config = read_json(folder / ("config.json" if is_hf else "params.json"))
    form = _form(config, is_hf)
    weights = _weight_files(path)
    tensors = [
        tensor
        for file in weights
        if file.suffix == ".safetensors"
        for tensor in safetensors_header(file)
    ]
    counts = count_parameters(tensors, _packed_bits(config))
    has_pickle = any(file.suffix == ".pth" for file in weights)
    return Manifest(
        name=name,
        path=str(path),
        format="meta" if form == "mistral" and has_pickle else form,
        architecture=_architecture(config, form),
        num_parameters=counts.total() or None,
        dtype=_commonest(counts) or config.get("torch_dtype") or config.get("dtype"),
        size_bytes=sum(file.stat().st_size for file in weights),
        context=_context(config, form),
        licence=_licence(folder),
        tokenizer=_tokenizer(folder),
        has_chat_template=_has_template(folder),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises CheckpointError when it is too large or is none."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError(
                "{file} has {size} bytes; at most {limit} are allowed.",
                file=path,
                size=size,
                limit=MAX_JSON_BYTES,
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            "{file}: can't read: {reason}.", file=path, reason=error.strerror
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("{file} is not valid JSON.", file=path) from error
    if not isinstance(value, dict):
        raise CheckpointError("{file} holds no JSON object.", file=path)
    return value


def safetensors_header(path: Path) -> list[StoredTensor]:
    """Name, type and shape of each tensor in one safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        (length,) = struct.unpack("<Q", head) if len(head) == 8 else (0,)
        if not 2 <= length <= min(MAX_JSON_BYTES, size - 8):
            raise CheckpointError(
                "{file}: header of {length} bytes in a file of {size}.",
                hint="It is incomplete or no safetensors file; fetch it again.",
                file=path,
                length=length,
                size=size,
            )
        try:
            entries = json.loads(file.read(length))
            return [
                StoredTensor(name, str(entry["dtype"]), _shape(entry["shape"]))
                for name, entry in entries.items()
                if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                "{file}: its header is damaged.", hint="Fetch it again.", file=path
            ) from error


def _weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: HF's sharded or single file, else Meta's or Mistral's."""
    if path.is_file():
        return [path]
    for pattern in (
        "model*.safetensors",
        "consolidated*.safetensors",
        "consolidated.*.pth",
        "*.safetensors",
    ):
        if found := sorted(path.glob(pattern)):
            return found
    return []


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError(f"shape {sizes!r}")
    return tuple(sizes)


def _form(config: dict[str, Any], is_hf: bool) -> str:
    """Whose names and settings the folder has; gpt-oss's first layout has a config.json too."""
    if not is_hf:
        return "mistral"
    is_openai = "experts_per_token" in config and "initial_context_length" in config
    return "openai" if is_openai and "model_type" not in config else "hf"


def _architecture(config: dict[str, Any], form: str) -> str | None:
    if form != "hf":
        return "gpt-oss" if form == "openai" else "mixtral" if config.get("moe") else "llama"
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return config.get("model_type")


def _context(config: dict[str, Any], form: str) -> int | None:
    if form == "openai":
        return int(config["initial_context_length"] * config.get("rope_scaling_factor", 1))
    return config.get("max_position_embeddings") or config.get("max_seq_len")


def _packed_bits(config: dict[str, Any]) -> int:
    """Bits of one value in compressed-tensors' int32 words: 4, unless its config says otherwise."""
    try:
        groups = config["quantization_config"]["config_groups"]
        bits = next(iter(groups.values()))["weights"]["num_bits"]
    except (KeyError, TypeError, AttributeError, StopIteration):
        return 4
    return bits if bits in (2, 4, 8) else 4


def _commonest(counts: Counter[str]) -> str | None:
    """The type that most parameters have."""
    return counts.most_common(1)[0][0] if counts else None


def _describe_grok(name: str, folder: Path) -> Manifest:
    """xAI's checkpoint has no settings: what it is follows from its files."""
    files = sorted((folder / GROK_FOLDER).glob("tensor*"))
    counts: Counter[str] = Counter()
    for file in files:
        tensor = pickled_tensor(file)
        counts[tensor.dtype] += math.prod(tensor.shape)
    return Manifest(
        name=name,
        path=str(folder),
        format="xai",
        architecture="grok-1",
        num_parameters=counts.total() or None,
        dtype=_commonest(counts),
        size_bytes=sum(file.stat().st_size for file in files),
        context=GROK_CONTEXT,
        licence=_licence(folder),
        tokenizer=_tokenizer(folder),
        has_chat_template=False,
    )


def _licence(folder: Path) -> str | None:
    """`license:` of the README's front matter, else the name of a licence file."""
    readme = folder / "README.md"
    if readme.is_file():
        with readme.open(encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 16)
        front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
        match = front and re.search(
            r"^license(?:_name)?:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE
        )
        if match:
            return match[1]
    names = sorted(path.name for path in folder.glob("LICEN[CS]E*"))
    return f"see {names[0]}" if names else None


def _tokenizer(folder: Path) -> str | None:
    if (folder / "tokenizer.json").is_file():
        return "tokenizer.json"
    for name in ("tekken.json", "tiktoken.model"):
        if (folder / name).is_file():
            return name
    model = next(iter(sorted(folder.glob("tokenizer.model*"))), None)
    if model is None:
        return None
    # tiktoken's form is lines of base64 and a rank; a SentencePiece file is a protobuf.
    with model.open("rb") as file:
        first = file.readline(200)
    return "tiktoken" if re.fullmatch(rb"[A-Za-z0-9+/=]+ \d+\r?\n?", first) else "sentencepiece"


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_json(config).get("chat_template"))


def _describe_gguf(name: str, path: Path, read_gguf: GgufReader) -> Manifest:
    parts = gguf_parts(path)
    headers = [read_gguf(part) for part in parts]
    facts = headers[0].metadata
    architecture = facts.get("general.architecture")
    counts: Counter[str] = Counter()
    for tensor in (tensor for header in headers for tensor in header.tensors):
        dtype = GGML_TYPES.get(tensor.ggml_type, f"ggml type {tensor.ggml_type}")
        counts[dtype] += math.prod(tensor.shape)
    return Manifest(
        name=name,
        path=str(path),
        format="gguf",
        architecture=architecture,
        num_parameters=counts.total() or None,
        dtype=_commonest(counts),
        size_bytes=sum(part.stat().st_size for part in parts),
        context=facts.get(f"{architecture}.context_length"),
        licence=facts.get("general.license"),
        tokenizer=facts.get("tokenizer.ggml.model"),
        has_chat_template="tokenizer.chat_template" in facts,
    )
