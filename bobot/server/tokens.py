"""Texts to token ids and back, in the words of vLLM and of llama.cpp, and counts of prompts."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from bobot.chat.protocol import ChatRequest, ParameterError
from bobot.server.calls import Call, Reply
from bobot.server.models import Opened
from bobot.server.openai_chat import ChatBody, ChatMessage, Tool, chat_request
from bobot.server.running import Runner
from bobot.server.settings import Settings
from bobot.server.wire import decode
from bobot.text import Tokenizer


class TokenizeBody(Struct, kw_only=True):
    """vLLM's prompt or messages, or llama.cpp's content."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool = True
    return_token_strs: bool = False
    with_pieces: bool = False


class DetokenizeBody(Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


class Tokens:
    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._settings = settings

    async def tokenize(self, call: Call) -> Reply:
        body = decode(call.body, TokenizeBody)
        async with self._runner.models.borrow(body.model) as opened:
            tokenizer = tokenizer_of(opened)
            if body.messages is not None:
                asked = ChatBody(messages=body.messages, tools=body.tools)
                ids = list(await self._runner.prompt_ids(body.model, chat_request(asked)))
            else:
                ids = _ids(tokenizer, body)
            pieces = [
                piece.decode("utf-8", "replace")
                for piece in tokenizer.decode_pieces(ids, opens_text=False)
            ]
            found: dict[str, Any] = {
                "count": len(ids),
                "max_model_len": opened.model.max_model_len,
                "tokens": ids,
            }
        if body.return_token_strs:
            found["token_strs"] = pieces
        if body.with_pieces:
            pairs = zip(ids, pieces, strict=True)
            found["tokens"] = [{"id": token_id, "piece": piece} for token_id, piece in pairs]
        return Reply(found)

    async def detokenize(self, call: Call) -> Reply:
        body = decode(call.body, DetokenizeBody)
        async with self._runner.models.borrow(body.model) as opened:
            tokenizer = tokenizer_of(opened)
            size = tokenizer.vocab_size
            for index, token_id in enumerate(body.tokens):
                if not 0 <= token_id < size:
                    raise ParameterError(
                        "{param} is {value}; allowed: {allowed}.",
                        param=f"tokens[{index}]",
                        value=token_id,
                        allowed=f"0 to {size - 1}",
                    )
            text = tokenizer.decode(body.tokens)
        return Reply({"prompt": text, "content": text})

    async def tokenizer_info(self, call: Call) -> Reply:
        async with self._runner.models.borrow(call.query.get("model")) as opened:
            tokenizer = tokenizer_of(opened)
            names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
            eos_ids = sorted(tokenizer.eos_ids)
            eos = names.get(eos_ids[0]) if eos_ids else None
            info = {
                "tokenizer_class": "bobot",
                "bos_token": None if tokenizer.bos_id is None else names.get(tokenizer.bos_id),
                "bos_token_id": tokenizer.bos_id,
                "eos_token": eos,
                "eos_token_id": eos_ids[0] if eos_ids else None,
                "eos_token_ids": eos_ids,
                "pad_token": eos,
                "add_bos_token": tokenizer.adds_bos,
                "vocab_size": tokenizer.vocab_size,
                "model_max_length": opened.model.max_model_len,
                "chat_template": tokenizer.published_template or tokenizer.chat_template,
            }
        return Reply(info)

    async def count_chat(self, call: Call) -> Reply:
        """llama.cpp's chat/completions/input_tokens."""
        body = decode(call.body, ChatBody)
        settings = self._settings
        request: ChatRequest = chat_request(
            body, lenient=settings.is_lenient, is_llama=settings.is_llama
        )
        ids = await self._runner.prompt_ids(body.model, request)
        return Reply({"object": "response.input_tokens", "input_tokens": len(ids)})


def tokenizer_of(opened: Opened) -> Tokenizer:
    """ParameterError for a model whose tokenizer is elsewhere."""
    if opened.tokenizer is None:
        raise ParameterError(
            "{name} has no tokenizer here.",
            param="model",
            code="unsupported_parameter",
            name=opened.model.name,
        )
    return opened.tokenizer


def _ids(tokenizer: Tokenizer, body: TokenizeBody) -> list[int]:
    """vLLM adds special tokens unless told not to, llama.cpp only when told."""
    text = body.prompt if body.content is None else body.content
    if text is None:
        raise ParameterError(
            "{param} is missing.", param="prompt", code="missing_required_parameter"
        )
    default = body.content is None
    adds = body.add_special_tokens if body.add_special is None else body.add_special
    adds = default if adds is None else adds
    has_bos = adds and tokenizer.adds_bos and tokenizer.bos_id is not None
    bos = [tokenizer.bos_id] if has_bos else []
    return [*bos, *tokenizer.encode(text, allow_special=body.parse_special)]  # type: ignore[list-item]
