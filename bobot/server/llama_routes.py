"""llama-server's own routes: /completion, /infill, /apply-template, /embedding, /props, /slots and
what it has beside them. The paths that OpenAI's API has too are OpenAI's, unless the server answers
as llama-server does (Settings.is_llama).
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from bobot.chat.protocol import ParameterError
from bobot.server.calls import Call, Reply, Stream, llama_stream
from bobot.server.failures import DoorError
from bobot.server.llama_completion import CompletionWriter, completion_chunks
from bobot.server.llama_fields import (
    DEFAULTS,
    CompletionBody,
    Ids,
    plan,
    prompts_of,
    settings_of,
    shown,
    with_bos,
)
from bobot.server.models import Opened
from bobot.server.openai_chat import ChatBody, chat_request
from bobot.server.openai_chat_answer import FINGERPRINT
from bobot.server.running import Runner, merge
from bobot.server.settings import Settings
from bobot.server.tokens import tokenizer_of
from bobot.server.wire import decode, unsupported_parameter
from bobot.text import Tokenizer

FIM_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<|fim▁begin|>", "<|fim▁hole|>", "<|fim▁end|>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
"""What publishers call the tokens before a prefix, before a suffix and before the middle: Qwen,
StarCoder, Granite, Code Llama, DeepSeek, GLM."""
REPO_TOKEN, FILE_TOKENS = "<|repo_name|>", ("<|file_sep|>", "<file_sep>")


class Extra(Struct, kw_only=True):
    text: str
    filename: str | None = None


class InfillBody(CompletionBody, kw_only=True):
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] = field(default_factory=list)


class EmbeddingBody(Struct, kw_only=True):
    content: Any = None
    input: Any = None
    model: str | None = None
    embd_normalize: int = 2


class LlamaServer:
    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._settings = settings

    async def complete(self, call: Call) -> Reply | Stream:
        body = decode(call.body, CompletionBody)
        async with self._runner.models.borrow(body.model) as opened:
            prompts, is_list = prompts_of(body.prompt, tokenizer_of(opened))
            return await self._complete(call, opened, body, prompts, is_list=is_list)

    async def infill(self, call: Call) -> Reply | Stream:
        body = decode(call.body, InfillBody)
        async with self._runner.models.borrow(body.model) as opened:
            ids = _infill_ids(tokenizer_of(opened), body, opened.model.name)
            return await self._complete(call, opened, body, [ids], is_list=False)

    async def _complete(
        self, call: Call, opened: Opened, body: CompletionBody, prompts: list[Ids], *, is_list: bool
    ) -> Reply | Stream:
        settings, tokenizer = self._settings, tokenizer_of(opened)
        found = plan(
            body,
            prompts,
            tokenizer,
            settings.defaults,
            is_list=is_list,
            lenient=settings.is_lenient,
        )
        writer = CompletionWriter(found, tokenizer, opened.model.max_model_len)
        starts = [
            functools.partial(self._runner.run, call, body.model, request)
            for request in found.requests
        ]
        events = merge(starts)
        if body.stream:
            return llama_stream(completion_chunks(events, writer))
        async with contextlib.aclosing(events):
            async for number, event in events:
                for _ in writer.add(number, event):
                    pass
        return Reply(writer.whole())

    async def apply_template(self, call: Call) -> Reply:
        """The prompt as text, without the beginning token that /completion adds again."""
        body = decode(call.body, ChatBody)
        opens_answer = body.add_generation_prompt is not False
        body.add_generation_prompt = None
        settings = self._settings
        request = chat_request(body, lenient=settings.is_lenient, is_llama=settings.is_llama)
        async with self._runner.models.borrow(body.model) as opened:
            tokenizer = tokenizer_of(opened)
            if not opens_answer:
                tools = list(request.tools) or None
                options = request.template_options
                text = tokenizer.render(request.messages, tools, False, **options)
                return Reply({"prompt": text})
            ids = await self._runner.prompt_ids(body.model, request)
        if tokenizer.adds_bos and ids[:1] == (tokenizer.bos_id,):
            ids = ids[1:]
        return Reply({"prompt": shown(tokenizer, ids, opens_text=True)})

    async def embed(self, call: Call) -> Reply:
        """A list of {index, embedding}; each embedding is a list of one vector of length 1."""
        body = decode(call.body, EmbeddingBody)
        if body.embd_normalize != 2:
            raise unsupported_parameter("embd_normalize")
        given = body.input if body.content is None else body.content
        async with self._runner.models.borrow(body.model) as opened:
            prompts, _ = prompts_of(given, tokenizer_of(opened))
            texts: list[str | list[int]] = [list(ids) for ids in prompts]
            async with self._runner.accounted(call, opened) as tally:
                vectors, tally.prompt_tokens = await opened.model.embed(texts)
        return Reply(
            [{"index": place, "embedding": [vector]} for place, vector in enumerate(vectors)]
        )

    async def rerank(self, call: Call) -> Reply:
        """Refused: no family here ends in a score."""
        raise DoorError(
            "This server does not support reranking: its models write text, they score no"
            " documents.",
            status=501,
            code="unsupported",
        )

    async def lora_adapters(self, call: Call) -> Reply:
        return Reply([])

    async def props(self, call: Call) -> Reply:
        """Asking loads a model that was never in memory, and wakes none that has left it."""
        models = self._runner.models
        name = models.name_of(call.query.get("model"))
        while (seen := models.seen(name)) is None:
            async with models.borrow(name):
                pass
        listed = models.describe(name)
        sampling = {**DEFAULTS, **self._settings.defaults}
        limit = sampling.get("max_tokens", -1)
        found = {
            "default_generation_settings": {
                "id": 0,
                "n_ctx": seen.context,
                "is_processing": False,
                "params": {**settings_of(sampling), "n_predict": limit, "max_tokens": limit},
            },
            "total_slots": seen.num_slots,
            "model_alias": name,
            "model_path": Path(listed.facts.path or "").name,
            "chat_template": seen.chat_template,
            "modalities": {"vision": False, "audio": False},
            "build_info": FINGERPRINT,
            "is_sleeping": listed.state == "absent",
        }
        return Reply(found)

    async def slots(self, call: Call) -> Reply:
        """A slot is a place in the batch; which of them are taken means nothing, how many does."""
        async with self._runner.models.borrow(call.query.get("model")) as opened:
            if opened.num_slots is None or opened.counts is None:
                raise ParameterError(
                    "{name} runs elsewhere: it has no slots here.",
                    param="model",
                    code="unsupported_parameter",
                    name=opened.model.name,
                )
            num_busy = int(opened.counts()["num_running"])
            if num_busy >= opened.num_slots and call.query.get("fail_on_no_slot"):
                raise DoorError(
                    "All slots are busy.", status=503, code="no_slot", retry_after_s=1.0
                )
            size = opened.model.max_model_len
            return Reply(
                [
                    {"id": place, "n_ctx": size, "is_processing": place < num_busy}
                    for place in range(opened.num_slots)
                ]
            )


def _infill_ids(tokenizer: Tokenizer, body: InfillBody, name: str) -> Ids:
    """The prompt of a text that is missing between two others. DoorError (501) for a model that was
    not trained for it."""
    specials = tokenizer.special_tokens
    found = next((three for three in FIM_TOKENS if all(t in specials for t in three)), None)
    if found is None:
        raise DoorError(
            "{name} does not support infill: it has no tokens for prefix, suffix and middle.",
            status=501,
            code="unsupported",
            name=name,
        )
    prefix, suffix, middle = (specials[token] for token in found)
    prompt = body.prompt if body.prompt is not None else ""
    if not isinstance(prompt, str):
        raise ParameterError("{param} is no text.", param="prompt")
    ids = with_bos(tokenizer, "")
    file_token = next((specials[token] for token in FILE_TOKENS if token in specials), None)
    if body.input_extra and REPO_TOKEN in specials:
        ids += [specials[REPO_TOKEN], *tokenizer.encode("myproject\n")]
    for extra in body.input_extra:
        if file_token is not None:
            ids += [file_token, *tokenizer.encode(f"{extra.filename or 'tmp'}\n")]
        ids += tokenizer.encode(extra.text)
    if body.input_extra and file_token is not None:
        ids += [file_token, *tokenizer.encode("filename\n")]
    ids += [prefix, *tokenizer.encode(body.input_prefix)]
    ids += [suffix, *tokenizer.encode(body.input_suffix)]
    return (*ids, middle, *tokenizer.encode(prompt))
