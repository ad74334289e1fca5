"""`bobot show`: what one model is, from headers and small files; no torch, nothing is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from bobot.cli.arguments import add_model
from bobot.cli.table import bytes_text, count_text, facts
from bobot.hub.digest import model_digest
from bobot.hub.made import made_bytes
from bobot.hub.manifest import Manifest, describe
from bobot.hub.names import EMBEDDED, gguf_parts, resolve
from bobot.messages import tr

FORMATS = {
    "hf": "Hugging Face safetensors",
    "meta": "Meta consolidated.NN.pth",
    "mistral": "Mistral consolidated.safetensors",
    "openai": "OpenAI's first layout (original/)",
    "xai": "xAI ckpt-0",
    "gguf": "GGUF",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot show ./Llama-3.1-8B-Instruct")
    add_model(parser)
    parser.add_argument("--json", action="store_true", help=tr("print JSON instead of a table"))


def run(args: argparse.Namespace) -> int:
    from bobot.text.gguf_metadata import read_header

    path = resolve(args.model)
    name = path.name if args.model and Path(args.model).exists() else args.model or EMBEDDED
    manifest = describe(name, path, read_header)
    digest = model_digest(path, [path] if path.is_dir() else gguf_parts(path))
    if args.json:
        more = {"cache_bytes": made_bytes(path), "digest": digest}
        print(json.dumps({**dataclasses.asdict(manifest), **more}, indent=2))
    else:
        cache = tr("{size} of tiles, made from it", size=bytes_text(made_bytes(path)))
        print(
            facts(
                [
                    *_facts(manifest),
                    (tr("cache"), cache if made_bytes(path) else tr("none")),
                    (tr("digest"), _digest_text(digest, manifest)),
                ]
            )
        )
    return 0


def _digest_text(digest: str | None, manifest: Manifest) -> str:
    if digest:
        return f"sha256:{digest}"
    return tr(
        "not computed: {size} would have to be read (bobot pull records it)",
        size=bytes_text(manifest.size_bytes),
    )


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    number = manifest.num_parameters
    unknown = tr("not stated")
    return [
        (tr("name"), manifest.name),
        (tr("files"), manifest.path),
        (tr("format"), FORMATS[manifest.format]),
        (tr("architecture"), str(manifest.architecture or unknown)),
        (tr("parameters"), f"{count_text(number)} ({number:,})" if number else unknown),
        (tr("type"), str(manifest.dtype or unknown)),
        (tr("size"), bytes_text(manifest.size_bytes)),
        (
            tr("context"),
            tr("{count} tokens", count=manifest.context) if manifest.context else unknown,
        ),
        (tr("licence"), manifest.licence or unknown),
        (tr("tokenizer"), str(manifest.tokenizer or tr("none"))),
        (
            tr("chat template"),
            tr("yes")
            if manifest.has_chat_template
            else tr("none: it continues text, it does not chat"),
        ),
    ]
