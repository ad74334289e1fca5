#!/usr/bin/env -S python3 -S
"""Stands where llama.cpp's tests expect llama-server; see llama_suite.py.

Its flags become those of `bobot serve`. A flag that has no counterpart, or another model than the
one of the suite, ends it with status 2: such a test fails.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

OURS = "ggml-org/test-model-stories260K"
ALONE = {
    "--no-slots", "--slots", "--cont-batching", "--metrics", "--jinja", "--no-jinja", "--embedding",
    "--offline", "--kv-unified", "--backend_sampling",
}  # fmt: skip
"""Flags without a value that ask for what bobot always does, or for how it does it."""
DEFAULTS = {"--temp": "temperature", "--seed": "seed", "--n-predict": "max_tokens"}
NAMES = {
    "--port": "--port",
    "--host": "--host",
    "--api-key": "--api-key",
    "--batch-size": "--batch-size",
    "--sleep-idle-seconds": "--unload-after",
}
"""Flags whose value bobot takes as it is, under its own name."""
PASSED_OVER = {"--ubatch-size", "--threads", "-fa", "--cache-ram"}
"""Flags with a value that change how an answer is computed, not what it is."""
TEMPLATES = {
    "chatml": "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\n' +"
    " message.content + '<|im_end|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}",
    "llama3": "{%- for message in messages -%}{{- '<|start_header_id|>' + message.role +"
    " '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}",
    "command-r": "{%- for message in messages -%}{{- '<|START_OF_TURN_TOKEN|><|' + {'assistant':"
    " 'CHATBOT'}.get(message.role, message.role | upper) + '_TOKEN|>' + message.content +"
    " '<|END_OF_TURN_TOKEN|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}",
}
"""llama.cpp's built-in templates as Jinja; chatml is what it takes where a model has none."""


def pairs(words: list[str]) -> dict[str, str]:
    """Flag -> value."""
    found, rest = {}, list(words)
    while rest:
        flag = rest.pop(0)
        found[flag] = (
            ""
            if flag in ALONE or flag == "--verbose" or not rest or rest[0].startswith("--")
            else rest.pop(0)
        )
    return found


def refused(what: str) -> SystemExit:
    print(f"bobot serve has no counterpart of {what}", flush=True)
    return SystemExit(2)


def model_named(flags: dict[str, str]) -> str:
    """The suite's model under the name it is given; empty where none is asked for."""
    repository = flags.pop("--hf-repo", "")
    file, alias = flags.pop("--hf-file", ""), flags.pop("--alias", "")
    if not repository and "--model" not in flags:
        return ""
    if repository != OURS or file or "," in alias or flags.pop("--model", ""):
        raise refused(f"the model {repository} {file} {alias}")
    shared = Path(os.environ["SUITE_MODEL"])
    named = shared.with_name("named") / f"{alias or shared.stem}.gguf"
    named.parent.mkdir(exist_ok=True)
    if not named.exists() or not named.samefile(shared):
        named.unlink(missing_ok=True)
        named.hardlink_to(shared)
    return str(named)


def template(flags: dict[str, str]) -> str:
    """The file of the chat template."""
    if file := flags.pop("--chat-template-file", ""):
        return str(Path(file).resolve())
    text = flags.pop("--chat-template", "chatml")
    path = Path(os.environ["SUITE_MODEL"]).with_name(f"{abs(hash(text))}.jinja")
    path.write_text(TEMPLATES.get(text, text))
    return str(path)


def words_for_bobot(flags: dict[str, str]) -> list[str]:
    """The words of `bobot serve`."""
    model = model_named(flags)
    words = ["serve", *([model] if model else []), "--llama-server", "--any-model"]
    words += ["--prefix-cache", "0"]  # each server starts with nothing
    slots = int(flags.pop("--parallel", "4"))
    words += ["--chat-template", template(flags), "--parallel", str(slots)]
    context = int(flags.pop("--ctx-size", "0"))
    if context and model:
        shares = 1 if "--kv-unified" in flags else slots
        words += ["--context", str(context // shares)]
    for flag, name in (
        ("--temp", "temperature"),
        ("--seed", "seed"),
        ("--n-predict", "max_tokens"),
    ):
        value = flags.pop(flag, "")
        if value and value != "-1":
            words += ["--default", f"{name}={value}"]
    if flags.pop("--reasoning", "auto") == "off":
        words += ["--default", "reasoning_effort=none"]
    if "--verbose" in flags:
        words.append("--show-prompt")
        del flags["--verbose"]
    for flag, ours in NAMES.items():
        if flag in flags:
            words += [ours, flags.pop(flag)]
    origins = flags.pop("--cors-origins", "*")
    if origins != "localhost":
        words += ["--allow-origin", origins]
    left = set(flags) - ALONE - PASSED_OVER
    if left:
        raise refused(" ".join(sorted(left)))
    return words


def main() -> None:
    given = sys.argv[1:]
    if peer := os.environ["SUITE_PEER"]:
        flags = pairs(given)
        model = ["--model", os.environ["SUITE_MODEL"]] if flags.get("--hf-repo") == OURS else []
        drop = ("--hf-repo", "--offline") if model else ()
        rest = [w for f, v in flags.items() if f not in drop for w in ([f, v] if v else [f])]
        os.execv(peer, [peer, *model, *rest])
    words = words_for_bobot(pairs(given))
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.environ["SUITE_NURSERY"])
    socket.send_fds(line, [json.dumps(words).encode()], [1])
    told = line.makefile()
    number = int(told.readline())
    signal.signal(signal.SIGTERM, lambda *_: os.kill(number, signal.SIGTERM))
    raise SystemExit(int(told.readline() or 1) & 255)


if __name__ == "__main__":
    main()
