"""A server of the page around two models that answer by script, for page.py. Not a test."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn

from bobot.chat.protocol import ChatRequest, Delta, Event, Finished, Started, TokenLogprob, Usage
from bobot.chat.store import Store
from bobot.chat.store_rows import NewMessage
from bobot.server.app import create_app
from bobot.server.keys import KeyStore
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
LONG = 500
"""Messages of the long conversation; about 400 tokens each."""


class Scripted:
    def __init__(self, name: str, answer: str, pause_s: float) -> None:
        self.name, self.answer, self.pause_s = name, answer, pause_s
        self.max_model_len = 262144

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        yield Started((1, 2, 3), self.name)
        is_slow = "slowly" in request.messages[-1]["content"]
        answer = self.answer * 4 if is_slow else self.answer
        pieces = [answer[i : i + 4] for i in range(0, len(answer), 4)]
        yield Delta(0, PartDelta(part=0, kind="reasoning", text="Think of a circle. "), (1,))
        num_top = request.sampling.get("logprobs")
        for number, piece in enumerate(pieces):
            await asyncio.sleep(0.03 if is_slow else self.pause_s)
            scores = () if num_top is None else (_scored(piece, number),)
            yield Delta(0, PartDelta(part=1, kind="text", text=piece), (number,), scores)
        yield Finished(0, "stop")
        yield Usage(3, len(pieces), 0, 0, None, 0.1, len(pieces) * self.pause_s)

    async def close(self) -> None:
        return


def _scored(piece: str, number: int) -> TokenLogprob:
    share = (0.97, 0.7, 0.4, 0.2, 0.04)[number % 5]
    other = (1 - share) / 2
    top = ((1, piece.encode(), math.log(share)), (2, b" or", math.log(other)))
    return TokenLogprob(1, piece.encode(), math.log(share), (*top, (3, b"\n", math.log(other))))


def source(name: str, answer: str, pause_s: float, *, is_hosted: bool = False) -> Source:
    async def open_it() -> Opened:
        return Opened(Scripted(name, answer, pause_s))  # type: ignore[arg-type]

    facts = Facts(context=8192, num_parameters=1_200_000_000, is_hosted=is_hosted)
    return Source(name, facts, lambda: 0, open_it)


def long_conversation(store: Store) -> str:
    identity = store.create(title="A long conversation", model="tulip-1b")
    head, text = None, ANSWER.partition("<script>")[0]
    with store.transaction():
        for number in range(LONG):
            role = "assistant" if number % 2 else "user"
            content = f"{number}. " + (text * 4 if number % 2 else "What about this one? " * 20)
            head = store.add(identity, head, NewMessage(role=role, content=content))
    return identity


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    store = Store(folder / "chats.db")
    if not store.conversations():
        long_conversation(store)
    chats = Chats(store)
    hosted = source("desk:big-model", "Hosted.", 0.01, is_hosted=True)
    sources = [source("tulip-1b", ANSWER, 0.01), source("rose-3b", ANSWER[:200], 0.005), hosted]
    models, limits = Models(sources, 1 << 40), Settings()
    keys = KeyStore.open(folder / "server.db", [])
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
