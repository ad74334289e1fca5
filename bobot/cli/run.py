"""`bobot run`: one answer to standard output. Everything that is not the answer goes to stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Generator
from typing import Any

from bobot.cli.arguments import (
    add_activations,
    add_adapter,
    add_policy,
    add_reasoning_effort,
    add_sampling,
    add_speculation,
    sampling_of,
)
from bobot.cli.loading import check_sampling, is_hosted, load_model, read_ahead
from bobot.cli.routing import policy_named
from bobot.cli.sanitize import sanitize
from bobot.cli.stopping import Stopping
from bobot.errors import UsageError
from bobot.hub.names import names_model
from bobot.messages import tr
from bobot.text.parts import PartDelta

DEFAULT_MAX_TOKENS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = tr("bobot run [OPTIONS] [MODEL] PROMPT")
    parser.epilog = tr(
        "Two words are MODEL and PROMPT. One word is the PROMPT, unless it names a\n"
        "model: then the prompt comes from standard input. Piped text is put after the\n"
        "prompt; - stands for it alone. With --model the only word is the prompt.\n"
        "\n"
        "examples:\n"
        "  bobot run 'Why is the sky blue?'\n"
        "  bobot run ./Llama-3.1-8B-Instruct 'Three names for a cat' --temperature 0.9\n"
        "  cat letter.txt | bobot run 'Summarize this letter:'\n"
        "  bobot run openai:gpt-4o 'Why is the sky blue?'      (needs OPENAI_API_KEY)\n"
        "  bobot run auto 'Why is the sky blue?'               (policy.toml chooses)\n"
        "  bobot run ./stories260K --raw 'Once upon a time' --max-tokens 200 --seed 1"
    )
    parser.add_argument("words", nargs="*", metavar="[MODEL] PROMPT", help=argparse.SUPPRESS)
    parser.add_argument(
        "-m", "--model", metavar="MODEL", help=tr("the model, when a word alone is unclear")
    )
    parser.add_argument("--system", metavar="TEXT", help=tr("the system prompt"))
    add_sampling(parser)
    add_reasoning_effort(parser)
    add_speculation(parser)
    add_activations(parser)
    add_adapter(parser)
    add_policy(parser)
    parser.add_argument("--private", action="store_true", help=tr("ask no hosted model"))
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help=tr("stop before this text; may be repeated")
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help=tr("continue the prompt as plain text, without a chat template"),
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help=tr("print one JSON object: text, usage, finish_reason, speed"),
    )
    parser.add_argument("--stats", action="store_true", help=tr("tell counts and speed on stderr"))


def run(args: argparse.Namespace) -> int:
    name, prompt = _model_and_prompt(args.model, args.words)
    policy = policy_named(name, args.policy)
    read_ahead(policy.local if policy else name)
    sampling = _sampling(args, policy is not None or is_hosted(name))
    model = load_model(
        name,
        draft=args.draft,
        speculation=args.speculation,
        activations=args.activations,
        adapter=args.adapter,
        policy=args.policy,
    )
    if getattr(model, "is_hosted", False):
        sampling["is_private"] = args.private
    with Stopping() as stopping:
        seen = []
        for delta in stopping.until_stopped(_deltas(model, prompt, args, sampling)):
            seen.append(delta)
            if delta.kind == "text" and not args.json:
                _write(delta.text)
    text = "".join(delta.text for delta in seen if delta.kind == "text")
    if not args.json and not text.endswith("\n"):
        print()
    if not stopping.is_stopped:
        reasoning = "".join(delta.text for delta in seen if delta.kind == "reasoning")
        _finish(model, text, reasoning, args)
    return 130 if stopping.is_stopped else 0


def _sampling(args: argparse.Namespace, hosted: bool) -> dict[str, Any]:
    """The keyword arguments for the model, checked before it is loaded; a host checks its own."""
    if "" in (args.stop or ()):
        raise UsageError("--stop needs a text of at least one character.")
    if hosted:
        return sampling_of(args)
    sampling = {"max_tokens": DEFAULT_MAX_TOKENS, **sampling_of(args)}
    check_sampling(sampling)
    return sampling


def _model_and_prompt(model: str | None, words: list[str]) -> tuple[str | None, str]:
    """The rule of the help text, applied."""
    if (model is None and len(words) > 2) or (model is not None and len(words) > 1):
        raise UsageError(
            "{count} words where a prompt was expected.",
            hint="Put the prompt in quotes: bobot run 'Why is the sky blue?'",
            count=len(words),
        )
    if model is None and (len(words) == 2 or (len(words) == 1 and _names_model(words[0]))):
        model, *words = words
    prompt = words[0] if words else "-"
    _check_text(prompt)
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _standard_input()
    if prompt == "-":
        prompt = piped
    elif piped:
        prompt = f"{prompt}\n\n{piped}"
    if not prompt.strip():
        raise UsageError("there is no prompt.", hint="Example: bobot run 'Why is the sky blue?'")
    return model, prompt


def _names_model(word: str) -> bool:
    if names_model(word):
        return True
    return " " not in word and (is_hosted(word) or policy_named(word) is not None)


def _check_text(prompt: str) -> None:
    """A byte that is no UTF-8 arrives from the command line as a lone surrogate."""
    bad = next((i for i, letter in enumerate(prompt) if "\ud800" <= letter <= "\udfff"), None)
    if bad is not None:
        raise UsageError(
            "the prompt is not UTF-8 text at byte {offset}.",
            hint="Convert it first, for example with iconv -t UTF-8.",
            offset=len(prompt[:bad].encode()),
        )


def _standard_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            "standard input is not UTF-8 text at byte {offset} (0x{byte:02x}).",
            hint="Convert it first, for example with iconv -t UTF-8.",
            offset=error.start,
            byte=data[error.start],
        ) from None


def _deltas(
    model: Any, prompt: str, args: argparse.Namespace, sampling: dict[str, Any]
) -> Generator[PartDelta, None, None]:
    stop = tuple(args.stop or ())
    from bobot.chat.readable import from_pieces, readable

    if args.raw and hasattr(model, "continued"):
        _refuse_chat_options(args)
        return model.continued(prompt, stop=stop, **sampling)
    has_template = model.tokenizer is not None and model.tokenizer.chat_template is not None
    if args.raw or not has_template:
        _refuse_chat_options(args)
        if not args.raw and model.tokenizer is not None:
            _tell(tr("{model} has no chat template: it continues your text.", model=model.name))
        return from_pieces(model.generate(prompt, stop=stop, **sampling))
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    messages = [*system, {"role": "user", "content": prompt}]
    if args.reasoning_effort is not None:
        sampling = {**sampling, "reasoning_effort": args.reasoning_effort}
    return readable(model.answer(messages, stream=True, stop=stop, **sampling))


def _refuse_chat_options(args: argparse.Namespace) -> None:
    """What only a chat template can write into the prompt."""
    if args.system is not None:
        raise UsageError(
            "--system needs a chat template, and here the prompt is continued as plain text.",
            hint="Leave --system out and begin the prompt with that text.",
        )
    if args.reasoning_effort is not None:
        raise UsageError(
            "--reasoning-effort needs a chat template, and here the prompt is continued as plain"
            " text.",
            hint="Leave it out.",
        )


def _write(text: str) -> None:
    """A terminal gets no control characters; a pipe gets what the model said."""
    sys.stdout.write(sanitize(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _tell(line: str) -> None:
    print(f"bobot: {line}", file=sys.stderr)


def _finish(model: Any, text: str, reasoning: str, args: argparse.Namespace) -> None:
    stats = model.last_stats
    if args.json:
        print(json.dumps(_report(model, text, reasoning), ensure_ascii=False))
    if not args.json and hasattr(stats, "cost_usd"):
        _tell(answered_by(stats))
    if stats.finish_reason == "length" and args.max_tokens is None:
        _tell(
            tr(
                "stopped after {count} tokens; --max-tokens allows more (context: {limit}).",
                count=stats.num_completion_tokens,
                limit=model.max_model_len or tr("unknown"),
            )
        )
    if args.stats:
        _tell(stats_line(stats))


def _report(model: Any, text: str, reasoning: str) -> dict[str, Any]:
    """The words of OpenAI's usage object; `reasoning` only where the model thought."""
    stats = model.last_stats
    prompt, completion = stats.num_prompt_tokens, stats.num_completion_tokens
    hosted = is_hosted(getattr(stats, "model", None))
    return {
        "model": getattr(stats, "model", model.name),
        "text": text,
        **({"reasoning": reasoning} if reasoning else {}),
        "finish_reason": stats.finish_reason,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
        **({"cost_usd": stats.cost_usd} if hosted else {}),
        "time_to_first_token_s": round(stats.time_to_first_token_s, 4),
        "tokens_per_s": round(stats.tokens_per_s, 2),
    }


def answered_by(stats: Any) -> str:
    """Who gave an answer of a BlockingModel, and what it cost."""
    if is_hosted(stats.model):
        return f"{stats.model}: {cost_text(stats.cost_usd)}"
    return tr("{model}: on this machine", model=stats.model)


def cost_text(cost_usd: float | None) -> str:
    """What an answer of a hosted model cost."""
    if cost_usd is None:
        return tr("cost unknown")
    return f"${cost_usd:.2f}" if cost_usd >= 10 else f"${cost_usd:.6f}"


def stats_line(stats: Any) -> str:
    """Counts and speed of one answer."""
    return tr(
        "{prompt} tokens read, {completion} written,"
        " {first:.2f} s to the first, {speed:.1f} tokens/s",
        prompt=stats.num_prompt_tokens,
        completion=stats.num_completion_tokens,
        first=stats.time_to_first_token_s,
        speed=stats.tokens_per_s,
    )
