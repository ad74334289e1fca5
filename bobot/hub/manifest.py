"""What a model on disk is, read from its small files and headers: nothing is loaded, no pickle is
opened.

Understands HF folders (config.json, safetensors headers), Meta's and Mistral's own (params.json)
and GGUF. The reader of GGUF headers is given by the caller (text/gguf_metadata.py lies on the same
row as hub/).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bobot.errors import CheckpointError

GgufReader = Callable[[Path], Any]
"""path -> an object with .metadata (a dict) and .tensors (each with .shape and .ggml_type)."""

MAX_JSON_BYTES = 100 << 20

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
    30: "bfloat16",
    39: "mxfp4",
}
"""ggml_type numbers (ggml.h) of the types bobot names; others are shown by number."""

SAFETENSORS_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


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
    is_hf = (folder / "config.json").is_file()
    config = read_json(folder / ("config.json" if is_hf else "params.json"))
    weights = _weight_files(path)
    tensors = [
        tensor
        for file in weights
        if file.suffix == ".safetensors"
        for tensor in safetensors_header(file)
    ]
    has_pickle = any(file.suffix == ".pth" for file in weights)
    return Manifest(
        name=name,
        path=str(path),
        format="hf" if is_hf else "meta" if has_pickle else "mistral",
        architecture=_architecture(config) if is_hf else "llama",
        num_parameters=sum(size for _, size in tensors) or None,
        dtype=_commonest(tensors) or config.get("torch_dtype") or config.get("dtype"),
        size_bytes=sum(file.stat().st_size for file in weights),
        context=config.get("max_position_embeddings") or config.get("max_seq_len"),
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


def safetensors_header(path: Path) -> list[tuple[str, int]]:
    """(dtype, number of elements) of each tensor in one safetensors file."""
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
                (entry["dtype"], math.prod(entry["shape"]))
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


def _architecture(config: dict[str, Any]) -> str | None:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return config.get("model_type")


def _commonest(tensors: Iterable[tuple[str, int]]) -> str | None:
    """The dtype that most elements have."""
    counts: Counter[str] = Counter()
    for dtype, size in tensors:
        counts[dtype] += size
    if not counts:
        return None
    dtype = counts.most_common(1)[0][0]
    return SAFETENSORS_TYPES.get(dtype, dtype.lower())


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


def _parts(path: Path) -> list[Path]:
    """The files of a GGUF model: NAME-00001-of-00003.gguf and its siblings, else the one file."""
    match = re.fullmatch(r"(.*-)0*1(-of-\d+\.gguf)", path.name)
    if match is None:
        return [path]
    begin, end = match.groups()
    files = path.parent.iterdir()
    return sorted(file for file in files if file.name.startswith(begin) and file.name.endswith(end))


def _describe_gguf(name: str, path: Path, read_gguf: GgufReader) -> Manifest:
    parts = _parts(path)
    headers = [read_gguf(part) for part in parts]
    facts = headers[0].metadata
    architecture = facts.get("general.architecture")
    tensors = [
        (GGML_TYPES.get(tensor.ggml_type, f"ggml type {tensor.ggml_type}"), math.prod(tensor.shape))
        for header in headers
        for tensor in header.tensors
    ]
    return Manifest(
        name=name,
        path=str(path),
        format="gguf",
        architecture=architecture,
        num_parameters=sum(size for _, size in tensors) or None,
        dtype=_commonest(tensors),
        size_bytes=sum(part.stat().st_size for part in parts),
        context=facts.get(f"{architecture}.context_length"),
        licence=facts.get("general.license"),
        tokenizer=facts.get("tokenizer.ggml.model"),
        has_chat_template="tokenizer.chat_template" in facts,
    )
