"""The prefix cache on disk: an answer behind blocks that were read back is the answer behind blocks
that were computed; nothing is kept that must not be, and nothing of other weights is found."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import run
from tiny_prefixes import FAMILIES, MAX_BYTES, ask, blocks_of, engine, prompt

from bobot.engine import SamplingParams
from bobot.engine.disk_cache import probe
from bobot.engine.prompt_rows import PromptScores
from bobot.hub.made import forget_missing, forget_prefixes
from bobot.paths import user_paths

PROGRAM = Path(__file__).with_name("tiny_prefixes.py")


@pytest.fixture(scope="module")
def model() -> Any:
    return FAMILIES["llama"]()


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def kept(model: Any, folder: Path, ids: list[int]) -> None:
    """Leaves the blocks of a prompt in the folder, as a process that has ended does."""
    made = engine(model, folder)
    ask(made, ids)
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_behind_restored_blocks_is_the_fresh_one_bit_for_bit(
    tmp_path: Path, family: str
) -> None:
    model, ids = FAMILIES[family](), prompt(300)
    first = engine(model, tmp_path)
    fresh = ask(first, ids)
    first.close()
    assert fresh == ask(engine(model, None), ids), "to keep blocks changes an answer"
    second = engine(model, tmp_path)
    restored = ask(second, ids)
    # 300 tokens are 18 full blocks of 16; the last token is always computed.
    assert (fresh.num_cached, restored.num_cached) == (0, 288)
    assert second.stats().num_restored_tokens == second.stats().num_cached_tokens == 288
    assert restored.tokens == fresh.tokens
    assert blocks_of(second, ids) == blocks_of(first, ids) and len(blocks_of(second, ids)) == 18
    again = ask(first, ids)  # the same, from memory
    assert (restored.tokens, restored.logprobs) == (again.tokens, again.logprobs)
    assert again.num_cached == 288 and first.stats().num_restored_tokens == 0


def test_another_process_finds_the_blocks(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = []
    for folder in (tmp_path / "one", tmp_path / "one", tmp_path / "none"):
        command = [sys.executable, str(PROGRAM), "gpt_oss", str(folder)]
        said.append(json.loads(subprocess.check_output(command, env=environ)))
    (tokens, logprobs, num_cached), restored, fresh = said
    assert (num_cached, restored[2], fresh[2]) == (0, 288, 0)
    assert [tokens, logprobs] == fresh[:2], "two processes compute other bits"
    assert restored[0] == tokens
    assert restored[1] == pytest.approx(logprobs, abs=1e-5)


def test_evicted_blocks_come_back(tmp_path: Path, model: Any) -> None:
    made = engine(model, tmp_path, num_blocks=24)
    first = ask(made, prompt(300))
    ask(made, prompt(300, seed=2))
    made.scheduler.disk.close()  # writes what waits
    assert len(blocks_of(made, prompt(300))) < 6
    again = ask(made, prompt(300))
    assert (again.tokens, again.num_cached) == (first.tokens, 288)
    assert made.stats().num_restored_tokens >= 288 - 6 * 16
    assert made.stats().num_free_blocks == 24


def test_longer_and_other_prompts_find_what_they_share(tmp_path: Path, model: Any) -> None:
    ids = prompt(300)
    kept(model, tmp_path, ids)
    for asked, num_cached in (
        ([*ids, *prompt(90, seed=3)], 288),
        ([*ids[:100], (ids[100] + 1) % 61, *ids[101:]], 96),
        (ids[:64], 48),
        ([(ids[0] + 1) % 61, *ids[1:]], 0),
    ):
        found = ask(engine(model, tmp_path), asked)
        assert found.num_cached == num_cached
        assert found.tokens == ask(engine(model, None), asked).tokens


def test_answer_is_kept_for_the_next_question(tmp_path: Path, model: Any) -> None:
    made, ids = engine(model, tmp_path), prompt(280)
    answer = ask(made, ids).tokens
    made.close()
    # 280 + 12 tokens, of which the last was never computed: 18 full blocks.
    assert ask(engine(model, tmp_path), [*ids, *answer, *prompt(9)]).num_cached == 288


def test_short_prompts_are_kept_when_they_come_again(tmp_path: Path, model: Any) -> None:
    made, short = engine(model, tmp_path), prompt(100)
    ask(made, short, n=3)
    made.close()
    assert files_in(tmp_path) == []
    ask(made, [*short, *prompt(20, seed=2)])
    made.close()
    assert len(files_in(tmp_path)) == 6
    assert ask(engine(model, tmp_path), short).num_cached == 96


def test_private_prompts_and_those_that_are_only_read_never_reach_the_disk(
    tmp_path: Path, model: Any
) -> None:
    made, ids = engine(model, tmp_path), prompt(300)
    ask(made, ids, is_private=True)
    again = ask(made, [*ids, *prompt(40)], is_private=True)
    assert again.num_cached == 288, "in memory it is shared as ever"
    scored = prompt(300, seed=4)
    made.read(scored, PromptScores(scored, 0, made.vocab_size))
    run(made)
    made.close()
    assert files_in(tmp_path) == []
    kept(model, tmp_path, ids)
    os.utime(files_in(tmp_path)[0], (1, 1))
    later = engine(model, tmp_path)
    assert ask(later, ids, is_private=True).num_cached == 288
    later.close()
    assert files_in(tmp_path)[0].stat().st_mtime == 1, "a private prompt left a trace"


def test_blocks_of_other_weights_are_not_found(tmp_path: Path, model: Any) -> None:
    ids = prompt(300)
    kept(model, tmp_path, ids)
    assert ask(engine(model, tmp_path, "other weights"), ids).num_cached == 0
    assert ask(engine(model, tmp_path, block_size=32), ids).num_cached == 0
    changed = FAMILIES["llama"]()
    changed.model.layers[0].mlp.down_proj.weight[3, 3] += 0.5  # the name has stayed
    found = ask(engine(changed, tmp_path), ids)
    assert found.num_cached == 0
    assert found.tokens == ask(engine(changed, None), ids).tokens
    assert ask(engine(model, tmp_path), ids).num_cached == 288


def test_probe_tells_apart_what_computes_otherwise(model: Any) -> None:
    found = {name: probe(engine(make(), None).runner) for name, make in FAMILIES.items()}
    assert len(set(found.values())) == len(FAMILIES)
    made = engine(model, None)
    before = [probe(made.runner), probe(made.runner)]
    ask(made, prompt(300))
    assert [*before, probe(made.runner)] == [found["llama"]] * 3


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_damaged_block_is_computed_again_and_kept_anew(
    tmp_path: Path, model: Any, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    ids = prompt(300)
    kept(model, tmp_path, ids)
    (path,) = tmp_path.glob(f"*-{_hashes(ids)[7].hex()}.block")
    damage(path)
    made = engine(model, tmp_path)
    with caplog.at_level(logging.WARNING):
        found = ask(made, ids)
    made.close()
    assert (found.num_cached, made.stats().num_free_blocks) == (7 * 16, 64)
    assert found.tokens == ask(engine(model, None), ids).tokens
    assert ("removed" in caplog.text) == (damage is not remove)
    assert ask(engine(model, tmp_path), ids).num_cached == 288


def _hashes(ids: list[int]) -> list[bytes]:
    """The definition: a chain of BLAKE2b over the tokens, 32 bits each."""
    found = [b""]
    for first in range(0, len(ids) - 15, 16):
        tokens = b"".join(token.to_bytes(4, sys.byteorder) for token in ids[first : first + 16])
        found.append(hashlib.blake2b(found[-1] + tokens, digest_size=32).digest())
    return found[1:]


def test_reading_back_lets_others_go_on(tmp_path: Path, model: Any) -> None:
    ids, short = prompt(300), prompt(20, seed=8)
    kept(model, tmp_path, ids)
    made = engine(model, tmp_path)
    assert made.scheduler.disk is not None
    made.scheduler.disk.blocks_per_step = 4
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    other = made.add(short, greedy)
    steps = [made.step()]
    late = made.add(ids, greedy)
    while made.has_unfinished():
        steps.append(made.step())
    first = next(n for n, outputs in enumerate(steps) if any(o.request_id == late for o in outputs))
    # 18 blocks are read in five steps, and in the fifth the rest of the prompt is computed.
    assert first == 5
    assert all([o.request_id for o in outputs] == [other] for outputs in steps[:first])
    tokens = {
        asked: [o.token_id for outputs in steps for o in outputs if o.request_id == asked]
        for asked in (other, late)
    }
    assert tokens[late] == ask(engine(model, None), ids).tokens
    assert tokens[other] == ask(engine(model, None), short).tokens
    assert made.stats().num_restored_tokens == 288


def test_aborted_while_it_is_read_back_leaves_nothing(tmp_path: Path, model: Any) -> None:
    ids = prompt(300)
    kept(model, tmp_path, ids)
    made = engine(model, tmp_path)
    assert made.scheduler.disk is not None
    made.scheduler.disk.blocks_per_step = 4
    request_id = made.add(ids, SamplingParams())
    assert made.step() == []
    made.abort(request_id)
    assert made.stats().num_free_blocks == 64 and not made.scheduler._restores
    found = ask(made, ids)
    assert found.num_cached == 288
    assert made.stats().num_restored_tokens == 288, "the four that were read are in memory"


def test_writer_that_is_behind_drops_blocks_and_they_are_kept_later(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ids = engine(model, tmp_path), prompt(300)
    disk = made.scheduler.disk
    assert disk is not None
    may_write = threading.Event()
    disk._work.maxsize = 5
    write = disk.files.write

    def slow(block_hash: bytes, payload: memoryview) -> bool:
        may_write.wait()
        return write(block_hash, payload)

    monkeypatch.setattr(disk.files, "write", slow)
    expected = ask(made, ids).tokens
    may_write.set()
    made.close()
    num_dropped = made.stats().num_dropped_blocks
    assert 12 <= num_dropped <= 14 and len(files_in(tmp_path)) == 19 - num_dropped
    for _ in range(4):
        assert ask(made, ids).tokens == expected
        made.close()
    assert ask(engine(model, tmp_path), ids).num_cached == 288


@pytest.mark.parametrize("seed", range(3))
def test_random_traffic_gives_the_tokens_it_gives_without_a_disk(
    tmp_path: Path, model: Any, seed: int
) -> None:
    """Evictions, preemptions, aborts and restores in any order; the pool stays whole."""
    draw = random.Random(seed)
    bases = [prompt(300, seed=number) for number in range(4)]
    asked = [
        [*draw.choice(bases)[: draw.choice([40, 120, 260, 300])], *prompt(draw.randint(1, 30), n)]
        for n in range(24)
    ]
    greedy = SamplingParams(temperature=0.0, max_tokens=6)
    made = engine(model, tmp_path, num_blocks=60, max_num_seqs=4, speculation="ngram")
    assert made.scheduler.disk is not None
    made.scheduler.disk.blocks_per_step = draw.choice([3, 100])
    tokens: dict[int, list[int]] = {}
    waiting, aborted = list(asked), set()
    of_request: dict[int, list[int]] = {}
    while waiting or made.has_unfinished():
        if waiting and draw.random() < 0.4:
            ids = waiting.pop()
            of_request[made.add(ids, greedy, is_private=draw.random() < 0.2)] = ids
        for output in made.step():
            assert output.token_id is not None
            tokens.setdefault(output.request_id, []).append(output.token_id)
        if draw.random() < 0.02 and (open_requests := sorted(made._requests)):
            aborted.add(draw.choice(open_requests))
            made.abort(max(aborted & set(open_requests)))
    made.close()
    assert made.stats().num_free_blocks == 60 and not made.scheduler._restores
    plain = engine(model, None)
    for request_id, ids in of_request.items():
        if request_id not in aborted:
            assert tokens[request_id] == ask(plain, ids).tokens[:6], f"request {request_id}"
    assert made.stats().num_restored_tokens > 0, "nothing was read back"


def test_blocks_of_a_model_that_is_gone_go_too_and_no_others(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps 300 // 16 blocks of the prompt, and one with its answer of 12 tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, ids = user_paths().prefixes, prompt(300)

    def num_cached(name: str) -> int:
        made = engine(model, None)
        made.keep_prefixes(folder, MAX_BYTES, name, tmp_path / name)
        found = ask(made, ids).num_cached
        made.close()
        return found

    for name in ("rose", "tulip"):
        (tmp_path / name).touch()
        assert num_cached(name) == 0
    blocks = {path: path.stat().st_size for path in folder.glob("*.block")}
    assert len(blocks) == 2 * 19
    assert forget_missing() == 0 and num_cached("tulip") == 288
    (tmp_path / "tulip").unlink()
    note_bytes = len(str(tmp_path / "tulip"))
    assert forget_missing() == sum(blocks.values()) // 2 + note_bytes
    assert len(list(folder.glob("*.block"))) == 19 and num_cached("rose") == 288
    assert forget_prefixes() == sum(blocks.values()) // 2 + note_bytes - 1
    assert list(folder.iterdir()) == [] and num_cached("rose") == 0


def test_without_prefix_caching_nothing_is_kept(tmp_path: Path, model: Any) -> None:
    made = engine(model, tmp_path, enable_prefix_caching=False)
    ask(made, prompt(300))
    made.close()
    assert files_in(tmp_path) == []


def test_stats_count_what_lies_on_the_disk(tmp_path: Path, model: Any) -> None:
    made = engine(model, tmp_path)
    ask(made, prompt(300))
    made.close()
    sizes = [path.stat().st_size for path in files_in(tmp_path)]
    assert made.stats().num_disk_bytes == sum(sizes) > 18 * made.runner.cache.block_bytes
    assert torch.equal(made.runner.cache.hidden_P, torch.zeros(64 * 16, dtype=torch.bool))
