"""Many clients at once that ask, read and leave at random: nothing may leak, mix or be lost.

    python tests/accept/storm.py [--clients 200] [--minutes 10]

Every answer that is read to its end must be the one that the
same question got alone. At the end no request is open, the engine has all its blocks, and memory
and file handles are what they were after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
from scores import Score, show
from serving import Running, serving

NUM_QUESTIONS = 24
MAX_GROWTH = 0.10
"""Of resident memory between the first tenth and the end."""
PATIENCE_S = 300.0


def question(number: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": f"Question {number}: tell me about {number}."}],
        "max_tokens": 4 + 3 * (number % 8),
        "seed": number,
        "temperature": 1,
    }


def text_of(lines: list[str]) -> str | None:
    """The text of a whole stream; None for one that broke off."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if not data or data[-1] != "[DONE]":
        return None
    deltas = [json.loads(entry)["choices"][0]["delta"] for entry in data[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def one_client(
    client: httpx2.AsyncClient, expected: list[str], end_s: float, counts: Counter[str], seed: int
) -> None:
    rng = random.Random(seed)
    while time.monotonic() < end_s:
        number = rng.randrange(NUM_QUESTIONS)
        leaves_after = rng.choice([None, None, 0, 1, 3, 8])
        body = {**question(number), "stream": True}
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    counts[f"status {answer.status_code}"] += 1
                    await answer.aread()
                    await asyncio.sleep(rng.random())
                    continue
                lines: list[str] = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if leaves_after is not None and len(lines) > 2 * leaves_after:
                        break
            if leaves_after is not None and len(lines) > 2 * leaves_after:
                counts["left"] += 1
            else:
                counts["right" if text_of(lines) == expected[number] else "WRONG"] += 1
        except httpx2.HTTPError as error:
            counts[f"LOST {type(error).__name__}"] += 1


def resources(server: Running) -> tuple[float, int]:
    """(MiB resident, open files) of the server's process."""
    folder = Path("/proc") / str(server.process.pid)
    pages = int((folder / "statm").read_text().split()[1])
    return pages * 4096 / (1 << 20), len(list((folder / "fd").iterdir()))


async def metric(client: httpx2.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


async def storm(server: Running, num_clients: int, seconds: float) -> tuple[bool, str]:
    """(whether all was right, what was counted)."""
    limits = httpx2.Limits(max_connections=num_clients, max_keepalive_connections=num_clients)
    counts: Counter[str] = Counter()
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as client:
        expected = []
        for number in range(NUM_QUESTIONS):
            answer = await client.post("/v1/chat/completions", json=question(number))
            expected.append(answer.json()["choices"][0]["message"]["content"])
        blocks_before = await metric(client, "bobot_engine_num_free_blocks")
        end_s = time.monotonic() + seconds
        tasks = [
            asyncio.ensure_future(one_client(client, expected, end_s, counts, seed))
            for seed in range(num_clients)
        ]
        await asyncio.sleep(seconds / 10)
        memory_before, files_before = resources(server)
        trend = [memory_before]
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=seconds / 10)
            trend.append(resources(server)[0])
        await asyncio.gather(*tasks)
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        while await metric(client, "bobot_requests_open") > 1:  # the one that asks
            await asyncio.sleep(0.1)
        memory_after, files_after = resources(server)
        blocks_after = await metric(client, "bobot_engine_num_free_blocks")
        again = await client.post("/v1/chat/completions", json=question(0))
    told = f"{dict(sorted(counts.items()))}, free blocks {blocks_before:.0f} -> {blocks_after:.0f}"
    told += f", {memory_before:.0f} -> {memory_after:.0f} MiB {[round(size) for size in trend]}"
    told += f", files {files_before} -> {files_after}"
    is_right = again.json()["choices"][0]["message"]["content"] == expected[0]
    is_clean = not any(name.isupper() or name.startswith("LOST") for name in counts)
    is_fine = (
        is_right
        and is_clean
        and counts["right"] > 0
        and blocks_after == blocks_before
        and memory_after < memory_before * (1 + MAX_GROWTH)
        and files_after <= files_before
    )
    return is_fine, told


def scores(num_clients: int = 200, minutes: float = 10) -> Iterator[Score]:
    with serving("--max-queue", "512", name="storm") as server:
        is_fine, told = asyncio.run(storm(server, num_clients, 60 * minutes))
    yield Score("storm", f"{num_clients} connections, {minutes:g} min", int(is_fine), 1, note=told)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    return show(scores(args.clients, args.minutes))


if __name__ == "__main__":
    sys.exit(main())
