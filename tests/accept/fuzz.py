"""Fuzzed bodies against a real server with the embedded model: no answer may be 5xx.

    python tests/accept/fuzz.py [NUMBER] [SEED]

NUMBER bodies (default 20000) over all routes, 8 at a time. Prints the count of each status, and the
first bodies that broke something.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
from scores import Score, show
from serving import BUILD, serving

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from test_fuzzed_bodies import GOOD, RAW, changed

AT_ONCE = 8


async def fuzz(url: str, number: int, seed: int) -> tuple[Counter[int], list[str]]:
    rng = random.Random(seed)
    statuses: Counter[int] = Counter()
    broken: list[str] = []
    work = [make(rng) for _ in range(number)]

    async def ask_some(client: httpx2.AsyncClient) -> None:
        while work:
            path, body = work.pop()
            answer = await client.post(path, content=body)
            statuses[answer.status_code] += 1
            late = b'"server_error"' in answer.content
            if answer.status_code >= 500 or late:
                broken.append(f"{answer.status_code} {path} {body[:500]!r} {answer.text[:300]}")

    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(ask_some(client) for _ in range(AT_ONCE)))
    return statuses, broken


def make(rng: random.Random) -> tuple[str, bytes]:
    path = rng.choice([*GOOD])
    if rng.random() < 0.02:
        return path, rng.choice(RAW)
    body = changed(GOOD[path], rng)
    if isinstance(body, dict) and "model" in body and rng.random() < 0.9:
        body["model"] = "bobot"
    return path, json.dumps(body).encode()


def scores(number: int = 20_000, seed: int = 1) -> Iterator[Score]:
    with serving("--context", "128") as server:
        statuses, broken = asyncio.run(fuzz(server.url, number, seed))
    (BUILD / "fuzz.log").write_text("\n".join(broken))
    note = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    yield Score("fuzz", f"bodies, seed {seed}", number - len(broken), number, note=note)


def main() -> int:
    status = show(scores(*(int(word) for word in sys.argv[1:])))
    print(*(BUILD / "fuzz.log").read_text().splitlines()[:20], sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
