"""A small model folder for tests of the service, and short ways to read its streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bobot.chat.protocol import (
    Delta,
    Event,
    Finished,
    PromptScored,
    Started,
    TextRequest,
    TokenLogprob,
    Usage,
)
from bobot.models.llama import Llama
from bobot.models.llama_dialects import config_from_hf
from bobot.text.parts import Part, joined, parts_of

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1536,
    "rms_norm_eps": 1e-5,
}
TEMPLATE = (
    "{% for m in messages %}<|s|>{{ m.role }}: {{ m.content }}<|e|>{% endfor %}"
    "{% if add_generation_prompt %}<|s|>{% endif %}"
)


def byte_llama(
    folder: Path,
    specials: Sequence[str] = ("<|s|>", "<|e|>"),
    end: str = "<|e|>",
    template: str | None = TEMPLATE,
) -> Path:
    """A Llama with random weights that reads bytes and, from 256 on, `specials`."""
    config = CONFIG | {"vocab_size": 260 + len(specials)}  # more than the tokenizer has
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(1)
    source = type("Source", (), {"config": config})()
    model = Llama(config_from_hf(source))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_file(model.state_dict(), folder / "model.safetensors")
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(sorted(letters))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": end} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@dataclass
class Read:
    """One stream, read to its end."""

    events: list[Event] = field(default_factory=list)

    @property
    def started(self) -> Started:
        event = self.events[0]
        assert isinstance(event, Started)
        return event

    @property
    def usage(self) -> Usage:
        event = self.events[-1]
        assert isinstance(event, Usage)
        return event

    @property
    def scored(self) -> tuple[TokenLogprob | None, ...]:
        (event,) = (event for event in self.events if isinstance(event, PromptScored))
        return event.entries

    def deltas(self, index: int = 0) -> list[Delta]:
        return [e for e in self.events if isinstance(e, Delta) and e.index == index]

    def ids(self, index: int = 0) -> list[int]:
        return [token_id for delta in self.deltas(index) for token_id in delta.token_ids]

    def parts(self, index: int = 0) -> list[Part]:
        return parts_of(delta.part for delta in self.deltas(index))

    def text(self, index: int = 0) -> str:
        return joined(self.parts(index), "text")

    def finished(self, index: int = 0) -> Finished:
        (event,) = (e for e in self.events if isinstance(e, Finished) and e.index == index)
        return event


async def read(stream: AsyncIterator[Event]) -> Read:
    found = Read()
    async for event in stream:
        found.events.append(event)
    return found


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """asyncio.run, and nothing waits for ever."""
    return asyncio.run(asyncio.wait_for(work, 120))


async def until(is_true: Any) -> None:
    """Waits for what another thread brings about."""
    while not is_true():
        await asyncio.sleep(0.001)


def requests(count: int) -> list[TextRequest]:
    """Requests of all kinds: lengths, seeds, greedy, penalized, with stop strings."""
    draw = random.Random(3)
    made = []
    for number in range(count):
        kinds: list[dict[str, Any]] = [
            {"temperature": 0.0},
            {"seed": number},
            {"seed": number, "temperature": 0.8, "top_p": 0.9, "top_k": 40},
            {"temperature": 0.0, "frequency_penalty": 1.0},
        ]
        sampling = kinds[number % 4] | {"max_tokens": draw.randint(1, 40)}
        prompt = "".join(draw.choices("abc def\u4f60", k=draw.randint(1, 90)))
        stop = ("Q", "zz") if number % 3 == 0 else ()
        made.append(TextRequest(prompt=prompt, sampling=sampling, stop=stop))
    return made
