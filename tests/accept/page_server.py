"""A server of the page, for page.py: models that answer by script, the embedded one, and a hosted
one whose host is a thread of this process. Not a test.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1]))
from fake_hosts import KEY, running_host

from bobot.chat.protocol import ChatRequest, Delta, Event, Finished, Started, TokenLogprob, Usage
from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.errors import RequestError
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
from bobot.server.library import Library
from bobot.server.models import Facts, Models, Opened, Source
from bobot.server.page_chats import Chats
from bobot.server.page_files import FILES
from bobot.server.page_routes import page_routes
from bobot.server.settings import Settings
from bobot.text.parts import PartDelta

ANSWER = """The **area** of a circle is $A = \\pi r^2$, and as a sum

$$\\sum_{k=1}^{n} k = \\frac{n(n+1)}{2}$$

```python
def area(radius: float) -> float:
    # squared, then scaled
    return 3.14159 * radius ** 2
```

| shape | area |
|---|---|
| circle | πr² |
| square | a² |

1. Measure the radius.
2. Square it.
   - with care

<script>alert(1)</script> [bad](javascript:alert(1)) ![far](https://example.org/x.png)
"""
WILD = (
    "# A heading that is long enough to need a second line on a telephone, and says little\n\n"
    f"{'Donaudampfschifffahrtsgesellschaft' * 6}\n\n"
    f"https://example.org/{'a-long-path/' * 15}\n\n"
    "> A quoted line with `inline code`, **bold**, *italic* and ~~struck~~ words.\n\n"
    + f"| name | value | {' | '.join(f'column {n}' for n in range(10))} |\n"
    + f"{'|---' * 11}|---:|\n| first | 1 {'| some words here ' * 10}|\n\n"
    + f"```javascript\nconst line = `${{{'anotherLongName + ' * 12}0}}`; // to the right\n```\n\n"
    + f"$${' + '.join(f'(x^{{{n}}} + {n})' for n in range(1, 24))}$$\n\n"
    + "```\nno language\n```\n\n"
    "- [x] done\n- [ ] to do\n  1. deep\n     - deeper\n\n---\n\n"
    "Harganya Rp10.000, atau $5 dan $6.\n"
)
HOSTED = "openai:gpt-4.1"
OTHERS = ("o1", "o3", "gpt-4o", "gpt-5")
LONG = 500
"""Messages of the long conversation, of 800,000 letters in all: more than 200,000 tokens."""
SIZES = {
    "tulip-1b": (2048, 16, 32, 8, 8192, 128256),
    "rose-8b": (4096, 32, 32, 8, 14336, 128256),
    "oak-405b": (16384, 126, 128, 8, 53248, 128256),
}
"""hidden size, layers, heads, key/value heads, intermediate size, vocabulary."""


@dataclass
class Scripted:
    """What it says depends on words of the question: slowly, wild, echo (what it was asked as
    JSON), fail."""

    name: str
    answer: str
    pause_s: float
    max_model_len: int = 131072

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        question = request.messages[-1]["content"]
        if "fail" in question:
            raise RequestError("This model refuses, as it was asked to.")
        yield Started((1, 2, 3), self.name)
        is_slow = "slowly" in question
        answer = self._answer(request, question)
        pieces = [answer[i : i + 4] for i in range(0, len(answer), 4)]
        yield Delta(0, PartDelta(part=0, kind="reasoning", text="Think of a circle. "), (1,))
        num_top = request.sampling.get("logprobs")
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0.03 if is_slow else self.pause_s)
            scores = () if num_top is None else (_scored(piece, number),)
            yield Delta(0, PartDelta(part=1, kind="text", text=piece), (number,), scores)
        yield Finished(0, "stop")
        yield Usage(3, len(pieces), 0, 0, None, 0.1, len(pieces) * self.pause_s)

    def _answer(self, request: ChatRequest, question: str) -> str:
        if "echo" in question:
            asked = {"sampling": dict(request.sampling), "is_private": request.is_private}
            return json.dumps({**asked, "messages": request.messages}, default=dict)
        if "wild" in question:
            return WILD
        return self.answer * 4 if "slowly" in question else self.answer

    async def close(self) -> None:
        return


def _scored(piece: str, number: int) -> TokenLogprob:
    share = (0.97, 0.7, 0.4, 0.2, 0.04)[number % 5]
    other = (1 - share) / 2
    top = ((1, piece.encode(), math.log(share)), (2, b" or", math.log(other)))
    return TokenLogprob(1, piece.encode(), math.log(share), (*top, (3, b"\n", math.log(other))))


def source(folder: Path, name: str, answer: str, pause_s: float) -> Source:
    """Its settings lie in a folder, so that the page can tell whether it would fit."""

    async def open_it() -> Opened:
        return Opened(Scripted(name, answer, pause_s))  # type: ignore[arg-type]

    path = folder / name
    path.mkdir(exist_ok=True)
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SIZES[name]
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": name == "tulip-1b",
    }
    (path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return Source(name, Facts(context=131072, path=str(path)), lambda: 0, open_it)


def long_conversation(store: Store) -> str:
    identity = store.create(title="A long conversation", model="tulip-1b")
    head, text = None, ANSWER.partition("<script>")[0]
    with store.transaction():
        for number in range(LONG):
            role = "assistant" if number % 2 else "user"
            question = "A needle in a haystack?" if number == 250 else "What about this? " * 20
            content = f"{number}. " + (text * 9 if number % 2 else question)
            head = store.add(identity, head, NewMessage(role=role, content=content))
    return identity


def main() -> None:
    folder, port, needs_key = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["key"]
    store = Store(folder / "chats.db")
    if not store.conversations():
        long_conversation(store)
    chats = Chats(store)
    with running_host("openai", [("text", "From **afar**, with $e = mc^2$.")]) as host:
        os.environ |= {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": host.base_url}
        sources = [
            source(folder, "tulip-1b", ANSWER, 0.02),
            source(folder, "rose-8b", ANSWER[:200], 0.005),
            source(folder, "oak-405b", ANSWER, 0.2),
            *Library().sources(["bobot", HOSTED, *(f"openai:{name}" for name in OTHERS)]),
        ]
        models, limits = Models(sources, 1 << 40), Settings(needs_key=needs_key)
        keys = KeyStore.open(folder / "server.db", ["a key for tests"] if needs_key else [])
        app = create_app(
            models,
            limits,
            keys,
            None,  # type: ignore[arg-type]
            pages=lambda runner, inflight: page_routes(runner, inflight, limits, chats),
            open_prefixes=(FILES,),
        )
        sock = socket.create_server(("127.0.0.1", port))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([sock])


if __name__ == "__main__":
    main()
