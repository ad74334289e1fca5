"""Which files of a repository a model needs: its weights once, its settings, its tokenizer, its
licence.

Publishers ship the same weights two or three times side by side (original/, metal/, consolidated.*
beside shards, pytorch_model.bin): one form is chosen, the first of FORMS that is there. Only names
are looked at, nothing is read. The layouts are those of the publishers' repositories on the Hub.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from bobot.errors import NotFoundError

PREFERRED = ("Q4_K_M", "MXFP4", "MXFP4_MOE", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "BF16", "F16")
"""The quantization to take when none is named: the first of these that a repository has."""

GROK_FOLDER = "ckpt-0"

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SETTINGS = re.compile(r"config\.json|generation_config\.json|special_tokens_map\.json")
_TOKENIZER = re.compile(
    r"tokenizer[\w.-]*\.json|added_tokens\.json|tekken\.json"
    r"|chat_template[\w.-]*|.+\.jinja|.+\.model(\.v\w+)?"
)
_DOCUMENT = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|README)([.-].*)?", re.IGNORECASE)
_PICKLE = re.compile(r"(.*/)?(pytorch_model.*|.*\.(bin|pth|pt|ckpt|h5|msgpack))")
_PART = re.compile(r"-\d+-of-\d+$")
_QUANTIZATION = re.compile(
    r"(?:.*?[-._/])?((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?))",
    re.IGNORECASE,
)


def needed_files(names: Iterable[str], quantization: str | None = None) -> list[str]:
    """The names to fetch, sorted: documents and settings first, then the weights.

    `quantization` chooses among GGUF files: a tag such as "Q4_K_M", or the file's whole name.
    Raises NotFoundError when bobot can read none of the forms, or the choice is not there.
    """
    names = sorted(set(names))
    top = [name for name in names if "/" not in name]
    documents = [name for name in top if _DOCUMENT.fullmatch(name)]
    weights = _hf_weights(top) or _publisher_weights(top) or _grok_weights(names)
    if weights and quantization is None:
        settings = [name for name in top if _SETTINGS.fullmatch(name)]
        if "config.json" not in top:
            settings += [name for name in top if name == "params.json"]
        tokenizer = [name for name in top if _TOKENIZER.fullmatch(name)]
        return [*documents, *settings, *tokenizer, *weights]
    choices = quantizations(names)
    if choices:
        return [*documents, *choices[_chosen(choices, quantization)]]
    raise _no_weights(names, quantization)


def is_document(name: str) -> bool:
    """Whether the file is there for people: a licence or a model card."""
    return _DOCUMENT.fullmatch(name) is not None


def is_tokenizer(name: str) -> bool:
    """Whether a tokenizer can be read from the file, or from the GGUF file that it is."""
    return (
        _TOKENIZER.fullmatch(name) is not None
        and not name.startswith(("tokenizer_config", "chat_template", "added_tokens"))
        and not name.endswith(".jinja")
    ) or name.endswith(".gguf")


def quantizations(names: Iterable[str]) -> dict[str, list[str]]:
    """The models of a GGUF repository: tag -> the files of it, all parts in order.

    The tag is the end of the name ("Q4_K_M" of model-Q4_K_M-00001-of-00002.gguf); where two models
    would share one, or the name has none, it is the name without its ending.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        lower = name.lower()
        if lower.endswith(".gguf") and "mmproj" not in lower and "imatrix" not in lower:
            groups.setdefault(_PART.sub("", name[: -len(".gguf")]), []).append(name)
    tags = {stem: _tag(stem) for stem in groups}
    uses = Counter(tags.values())
    return {tag if tag and uses[tag] == 1 else stem: groups[stem] for stem, tag in tags.items()}


def _tag(stem: str) -> str | None:
    match = _QUANTIZATION.fullmatch(stem)
    return match[1].upper() if match else None


def _hf_weights(top: list[str]) -> list[str]:
    """Safetensors beside a config.json: the shards and their index, else the one file."""
    if "config.json" not in top:
        return []
    shards = [name for name in top if _SHARD.fullmatch(name)]
    if shards and (_INDEX in top or _SINGLE not in top):
        return [*([_INDEX] if _INDEX in top else []), *shards]
    if _SINGLE in top:
        return [_SINGLE]
    others = [name for name in top if not name.startswith(("consolidated", "adapter_"))]
    weights = [name for name in others if name.endswith(".safetensors")]
    indices = [name for name in others if name.endswith(".safetensors.index.json")]
    return [*indices, *weights] if weights else []


def _publisher_weights(top: list[str]) -> list[str]:
    """Mistral's or Meta's own files beside a params.json."""
    if "params.json" not in top:
        return []
    mistral = [name for name in top if re.fullmatch(r"consolidated[\w.-]*\.safetensors", name)]
    indices = [name for name in top if name == "consolidated.safetensors.index.json"]
    meta = [name for name in top if re.fullmatch(r"consolidated\.\d+\.pth", name)]
    return [*indices, *mistral] if mistral else meta


def _grok_weights(names: list[str]) -> list[str]:
    """xAI's checkpoint: one pickle for each tensor, in the folder ckpt-0."""
    return [name for name in names if re.fullmatch(rf"{GROK_FOLDER}/tensor\d+_\d+", name)]


def _chosen(choices: dict[str, list[str]], quantization: str | None) -> str:
    if quantization is None:
        chosen = next((tag for tag in PREFERRED if tag in choices), None)
        if chosen or len(choices) == 1:
            return chosen or next(iter(choices))
        raise NotFoundError(
            "the repository has {count} GGUF models and none in a usual quantization.",
            hint="Name one after a colon: {names}",
            count=len(choices),
            names=", ".join(choices),
        )
    for tag, files in choices.items():
        if quantization.lower() == tag.lower() or quantization in files:
            return tag
    raise NotFoundError(
        "the repository has no GGUF model {wanted!r}.",
        hint="It has: {names}",
        wanted=quantization,
        names=", ".join(choices),
    )


def _no_weights(names: list[str], quantization: str | None) -> NotFoundError:
    if quantization is not None:
        return NotFoundError(
            "the repository has no GGUF files, so {wanted!r} can't be chosen.",
            hint="Leave out what follows the repository's name.",
            wanted=quantization,
        )
    pickle = next((name for name in names if _PICKLE.fullmatch(name)), None)
    if pickle:
        return NotFoundError(
            "the repository has its weights only as {file}, a pickle that bobot does not open.",
            hint="Look for the same model as safetensors, or as GGUF.",
            file=pickle,
        )
    return NotFoundError(
        "the repository holds no weights that bobot reads"
        " (safetensors, GGUF, Meta's, Mistral's or xAI's own files).",
        hint="Is it an adapter or a data set? Look at its page.",
    )
