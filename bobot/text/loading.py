"""load_tokenizer: finds the tokenizer of a model folder or file, and what stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bobot.errors import NotFoundError, TokenizerError
from bobot.text.chat_template import ChatTemplate
from bobot.text.gguf_metadata import read_header
from bobot.text.gguf_tokenizer import read_gguf_tokenizer
from bobot.text.harmony import HarmonyFormat, is_harmony
from bobot.text.publisher_formats import PublisherFormat
from bobot.text.sentencepiece_model import read_sentencepiece
from bobot.text.tiktoken_files import read_tekken, read_tiktoken
from bobot.text.tokenizer import ChatFormat, Tokenizer
from bobot.text.tokenizer_json import read_tokenizer_json
from bobot.text.vocabulary import Vocabulary

MAX_FILE_BYTES = 1 << 28

# In a folder, the first pattern with a match decides.
_PATTERNS = ("tokenizer.json", "tekken*.json", "*.model.v*", "*.model", "*.tiktoken", "*.gguf")
_WEIGHT_SUFFIXES = (".safetensors", ".pth")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_BOS_NAMES = ("<s>", "<|begin_of_text|>")
# Special tokens that end an answer, whatever the files beside the vocabulary say or forget.
_STOP_NAMES = (
    "</s>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<|return|>",
    "<|call|>",
    "<|im_end|>",
    "[EOS]",
)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer at `path`: a model folder, a tokenizer file, a GGUF, or weights beside one.

    Read: tokenizer.json, tekken.json, SentencePiece and tiktoken `.model`, `.tiktoken`, `.gguf`;
    from tokenizer_config.json, generation_config.json and chat_template.jinja beside it the BOS,
    stop tokens and chat template. Raises NotFoundError when there is none, TokenizerError when it
    is damaged or of another kind, CheckpointError for a damaged GGUF.
    """
    path = Path(path)
    if path.is_dir():
        file = _find(path, _folders(path))
    else:
        file = _find(path, [path.parent]) if path.suffix in _WEIGHT_SUFFIXES else path
    if not file.is_file():
        raise NotFoundError("{path}: no such file or folder", path=path)
    folder = file.parent
    config = _optional_json(folder / "tokenizer_config.json")
    vocabulary = _read(file, config)
    generation = _optional_json(folder / "generation_config.json")
    vocabulary = _with_ends(vocabulary, config, generation)
    return Tokenizer(vocabulary, _chat_format(folder, vocabulary, config))


def with_template(tokenizer: Tokenizer, source: str) -> Tokenizer:
    """The same vocabulary with another chat template, Jinja."""
    names: dict[int | None, str] = {i: name for name, i in tokenizer.special_tokens.items()}
    eos_id = tokenizer.vocabulary.eos_id
    ends = {"bos_token": names.get(tokenizer.bos_id, ""), "eos_token": names.get(eos_id, "")}
    return Tokenizer(tokenizer.vocabulary, ChatTemplate(source, {**ends}))


def _folders(folder: Path) -> list[Path]:
    """Where to look. xAI's weights lie in `checkpoints/ckpt-0`, the tokenizer above either."""
    folders = [folder]
    if (folder / "tensor00000_000").is_file():
        folders.append(folder.absolute().parent)
    if (folders[-1] / "ckpt-0").is_dir() and folders[-1].absolute().name == "checkpoints":
        folders.append(folders[-1].absolute().parent)
    return folders


def _find(path: Path, folders: list[Path]) -> Path:
    for folder in folders:
        for pattern in _PATTERNS:
            if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
                return found[-1] if pattern == "*.model.v*" else found[0]
    raise NotFoundError(
        "{path}: no tokenizer found; bobot looks for {names}", path=path, names=", ".join(_PATTERNS)
    )


def _read(file: Path, config: dict) -> Vocabulary:
    if file.suffix == ".gguf":
        return read_gguf_tokenizer(file, read_header(file).metadata)
    if file.suffix == ".json":
        document = _json(file)
        reader = (
            read_tekken
            if isinstance(document, dict) and "config" in document
            else read_tokenizer_json
        )
        return reader(file, document)
    data = _bytes(file)
    if not data:
        raise TokenizerError("{file}: the file is empty", hint="Download it again.", file=file)
    if data[0] == 0x0A:  # field 1 of a protobuf; a tiktoken file starts with base64
        return read_sentencepiece(file, data)
    return read_tiktoken(file, data, config)


def _bytes(file: Path) -> bytes:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TokenizerError(
            "{file}: {found} bytes; a tokenizer may have {most}",
            file=file,
            found=size,
            most=MAX_FILE_BYTES,
        )
    return file.read_bytes()


def _json(file: Path) -> Any:
    try:
        return json.loads(_bytes(file))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(
            "{file}: not a JSON file: {problem}",
            hint="Download it again.",
            file=file,
            problem=str(error)[:100],
        ) from error


def _optional_json(file: Path) -> dict:
    document = _json(file) if file.is_file() else {}
    if not isinstance(document, dict):
        raise TokenizerError("{file}: not a JSON object", file=file)
    return document


def _with_ends(vocabulary: Vocabulary, config: dict, generation: dict) -> Vocabulary:
    """`vocabulary` with the BOS and the stop tokens that config files and names add to its own."""
    specials = vocabulary.special_tokens
    names = _named_tokens(config)
    bos_id, eos_id = vocabulary.bos_id, vocabulary.eos_id
    if "bos_token" in config:
        bos_id = specials.get(names.get("bos_token", ""))
    elif bos_id is None and generation.get("bos_token_id") in specials.values():
        bos_id = generation["bos_token_id"]
    elif bos_id is None:
        bos_id = next((specials[name] for name in _BOS_NAMES if name in specials), None)
    if eos_id is None or "eos_token" in names:
        eos_id = specials.get(names.get("eos_token", ""), eos_id)
    listed = generation.get("eos_token_id", [])
    stops = {specials[name] for name in _STOP_NAMES if name in specials}
    stops |= {i for i in (listed if isinstance(listed, list) else [listed]) if type(i) is int}
    adds_bos = config.get("add_bos_token", vocabulary.adds_bos)
    return replace(
        vocabulary,
        bos_id=bos_id,
        eos_id=eos_id,
        stop_ids=vocabulary.stop_ids | stops | ({eos_id} - {None}),
        adds_bos=bool(adds_bos) and bos_id is not None,
    )


def _named_tokens(config: dict) -> dict[str, str]:
    """bos_token and its like in tokenizer_config.json: a string, or an object with `content`."""
    found = {}
    for key in _NAMED_TOKENS:
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[key] = token
    return found


def _chat_format(folder: Path, vocabulary: Vocabulary, config: dict) -> ChatFormat | None:
    """Harmony where the special tokens are its own; else the published template; else the built-in
    format of the publisher's vocabulary."""
    beside = folder / "chat_template.jinja"
    published = config.get("chat_template", vocabulary.chat_template)
    if beside.is_file():
        published = _bytes(beside).decode("utf-8", "replace")
    if is_harmony(vocabulary.special_tokens, published):
        return HarmonyFormat(published if isinstance(published, str) else None)
    names: dict[int | None, str] = {i: name for name, i in vocabulary.special_tokens.items()}
    variables: dict[str, object] = {
        "bos_token": names.get(vocabulary.bos_id, ""),
        "eos_token": names.get(vocabulary.eos_id, ""),
        **_named_tokens(config),
    }
    if isinstance(published, list):
        named = {str(e.get("name")): str(e.get("template")) for e in published if type(e) is dict}
        if "default" in named:
            return ChatTemplate(named["default"], variables, named.get("tool_use"))
    if isinstance(published, str):
        return ChatTemplate(published, variables)
    kind = vocabulary.kind
    if kind == "llama2" and "head_dim" in _optional_json(folder / "params.json"):
        kind = "mistral_v1"  # Meta's params.json has no head_dim, Mistral's always
    return PublisherFormat(kind) if kind else None
