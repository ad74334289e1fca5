"""Who answers: the rules of a policy file, what they spend, and who steps in."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_hosts import KEY, Refuse, running_host
from talking import QUESTION, Told, host_of

from bobot.chat.protocol import (
    ChatModel,
    ChatRequest,
    Delta,
    Event,
    Finished,
    OverloadedError,
    ParameterError,
    Started,
    TextRequest,
    Usage,
)
from bobot.errors import BobotError, ConfigError, GatewayError
from bobot.gateway import policy as policy_module
from bobot.gateway.hosted import HostedModel
from bobot.gateway.hosts import ModelFacts
from bobot.gateway.policy import Policy, Rule, load_policy, policy_file
from bobot.gateway.routed import RoutedModel, prompt_tokens
from bobot.gateway.spending import Ledger, Spent
from bobot.text.parts import PartDelta

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def hosted(name: str) -> bool:
    return name.startswith("openai:")


def choose(
    policy: Policy,
    request: ChatRequest | None = None,
    asked: str = "auto",
    tokens: int = 10,
    **spent: Any,
) -> list[str]:
    request = request or ChatRequest(messages=QUESTION)
    return policy.candidates(
        request, asked, tokens, lambda model: spent.get(model.split(":")[-1], Spent()), hosted
    )


LONG = Rule(model="openai:long", prompt_tokens_above=100)
TOOLS = Rule(model="openai:tools", wants_tools=True)
SMART = Rule(model="openai:smart", asked=("smart",))
RESCUE = Rule(model="openai:rescue", local_fails=True)
POLICY = Policy(local="home", aliases=("smart",), rules=(LONG, TOOLS, SMART, RESCUE))


def test_local_model_answers_unless_a_rule_says_otherwise() -> None:
    assert choose(POLICY) == ["home", "openai:rescue"]
    assert choose(POLICY, tokens=100) == ["home", "openai:rescue"]
    assert choose(POLICY, tokens=101) == ["openai:long", "home", "openai:rescue"]
    with_tools = ChatRequest(messages=QUESTION, tools=(TOOL,))
    assert choose(POLICY, with_tools)[0] == "openai:tools"
    assert choose(POLICY, with_tools, tokens=101)[:2] == ["openai:long", "openai:tools"]
    assert choose(POLICY, asked="smart")[0] == "openai:smart"


def test_private_conversation_never_leaves_whatever_the_rules() -> None:
    rules = [LONG, TOOLS, SMART, RESCUE, Rule(model="openai:any"), Rule(model="big-home")]
    for some in itertools.permutations(rules, 4):
        policy = Policy(local="home", aliases=("smart",), rules=some)
        request = ChatRequest(messages=QUESTION, tools=(TOOL,), is_private=True)
        chosen = choose(policy, request, asked="smart", tokens=10**6)
        assert set(chosen) <= {"home", "big-home"}, some


@pytest.mark.parametrize(
    ("spent", "answers"),
    [
        (Spent(usd=0.99, seconds=59), True),
        (Spent(usd=1.0), False),
        (Spent(seconds=60), False),
    ],
)
def test_budget_of_the_day_closes_a_rule(spent: Spent, answers: bool) -> None:
    rule = Rule(model="openai:paid", usd_per_day=1.0, seconds_per_day=60)
    chosen = choose(Policy(local="home", rules=(rule,)), paid=spent)
    assert ("openai:paid" in chosen) is answers


# ------------------------------------------------------------------ the file


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bobot").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def load(environ: dict[str, str], text: str) -> Policy | None:
    path = policy_file(environ)
    path.write_text(text)
    return load_policy(path, environ)


def test_example_of_the_documentation_is_a_policy(environ: dict[str, str]) -> None:
    assert load_policy(policy_file(environ), environ) is None
    lines = (policy_module.__doc__ or "").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    policy = load(environ, example)
    assert policy is not None
    assert policy.names == ("auto", "smart")
    models = [rule.model for rule in policy.rules]
    assert models == ["openai:gpt-4.1", "anthropic:claude-sonnet-5", "openai:gpt-4o-mini"]


RULE = 'local = "home"\n[[rules]]\nmodel = "openai:gpt-4o"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing required field `local`"),
        ("local = ", "is not valid TOML"),
        ('local = "x"\nfoo = 1', "unknown key 'foo'; allowed: aliases, local, name, rules"),
        ('local = "openai:gpt-4o"', "which is hosted"),
        (RULE + "prompt_tokens = 3", "unknown field `prompt_tokens` - at `$.rules[0]`"),
        (RULE + 'prompt_tokens_above = "many"', "Expected `int"),
        (RULE + "prompt_tokens_above = -1", "rule 1: a limit must be"),
        (RULE + "usd_per_day = nan", "rule 1: a limit must be"),
        (RULE + 'asked = ["clever"]', "asked names 'clever'; the names of this policy are auto"),
        (RULE.replace("gpt-4o", "secret") + "usd_per_day = 1", "no price of openai:secret"),
        (RULE.replace("openai:gpt-4o", "big") + "usd_per_day = 1", "costs nothing"),
        ('local = "x"\nrules = [3]', "$.rules[0]"),
        ('local = "x"\naliases = ["a b"]', "'a b' can't name a policy"),
        ('local = "auto"', "'auto' is a name of this policy"),
        (RULE.replace("openai:gpt-4o", "auto"), "'auto' is a name of this policy"),
    ],
)
def test_mistake_in_the_policy_is_named(environ: dict[str, str], text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ, text)
    assert words in str(caught.value)


# ------------------------------------------------------------------ spending


def test_spending_is_added_up_by_day_and_model_and_kept(tmp_path: Path) -> None:
    day = "2026-11-21"
    ledger = Ledger(tmp_path / "s.db", lambda: day)
    for usd in (0.25, 0.5):
        ledger.add("a", usd, 2.0)
    ledger.add("b", 1.0, 1.0)
    assert ledger.spent("a") == Spent(0.75, 4.0, 2)
    ledger.close()
    again = Ledger(tmp_path / "s.db", lambda: day)
    assert again.spent("a") == Spent(0.75, 4.0, 2)
    day = "2026-11-22"
    assert again.spent("a") == Spent()
    again.close()


# ------------------------------------------------------------------ answers


class Local:
    """A local model that says its name, or fails before or after its first word."""

    max_model_len = 100

    def __init__(self, name: str = "home", error: BobotError | None = None, late: bool = False):
        self.name = name
        self.error = error
        self.late = late

    async def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        if self.error and not self.late:
            raise self.error
        yield Started((1, 2), self.name)
        yield Delta(0, PartDelta(part=0, kind="text", text=f"I am {self.name}"))
        if self.error:
            raise self.error
        yield Finished(0, "stop")
        yield Usage(prompt_tokens=2, completion_tokens=3)

    async def complete(self, request: TextRequest) -> AsyncIterator[Event]:
        yield Started(None, self.name)

    async def embed(self, texts: list[str | list[int]]) -> tuple[list[list[float]], int]:
        return [[1.0]], 1

    async def close(self) -> None:
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "s.db")
    yield opened
    opened.close()


def route(policy: Policy, ledger: Ledger, models: dict[str, Any], **request: Any) -> Told:
    """The answer of the routed model; `models` are models, or fakes of hosts."""

    async def talk() -> Told:
        @asynccontextmanager
        async def open_model(name: str) -> AsyncIterator[ChatModel]:
            found = models[name]
            if not hasattr(found, "wire"):
                yield found
                return
            facts = {"m": ModelFacts(input=2.0, output=10.0)}
            host = host_of(found, name="openai", models=facts)
            hosted_model = HostedModel(host, name.split(":")[1], {"TEST_KEY": KEY})
            try:
                yield hosted_model
            finally:
                await hosted_model.close()

        routed = RoutedModel(policy, "auto", open_model, hosted, ledger)
        asked = ChatRequest(messages=QUESTION, **request)
        return Told([event async for event in routed.chat(asked)])

    return asyncio.run(talk())


ANY = Policy(local="home", rules=(Rule(model="openai:m"),))


def test_answer_says_who_gave_it(ledger: Ledger) -> None:
    with running_host("openai", [("text", "from afar")]) as fake:
        models = {"home": Local(), "openai:m": fake}
        told = route(ANY, ledger, models)
        assert told.started.model == "openai:m-2024-08-06"
        assert told.started.chosen == "openai:m"
        assert told.shape() == [("text", "from afar")]
        told = route(ANY, ledger, models, is_private=True)
        assert told.started.model == "home"
        assert len(fake.requests) == 1
    assert ledger.spent("openai:m").usd == pytest.approx((40 * 2 + 12 * 10) / 1e6)
    assert ledger.spent("openai:m").answers == 1
    assert ledger.spent("home").answers == 1


def test_failure_before_the_first_word_goes_to_the_next(ledger: Ledger) -> None:
    with running_host("openai", [("text", "x")]) as fake:
        fake.faults = [Refuse(403, {})]
        told = route(ANY, ledger, {"home": Local(), "openai:m": fake})
    assert told.started.model == "home"
    assert ledger.spent("openai:m").answers == 0


def test_failure_in_the_middle_is_not_hidden(ledger: Ledger) -> None:
    broken = Local("openai:m", GatewayError("broken."), late=True)
    with pytest.raises(GatewayError, match="broken"):
        route(ANY, ledger, {"home": Local(), "openai:m": broken})
    assert ledger.spent("openai:m").answers == 1


def test_rescue_answers_only_when_the_local_model_can_not_begin(ledger: Ledger) -> None:
    policy = Policy(local="home", rules=(Rule(model="openai:m", local_fails=True),))
    busy = Local("home", OverloadedError("full.", retry_after_s=1.0))
    other = Local("openai:m")
    assert route(policy, ledger, {"home": Local(), "openai:m": other}).started.model == "home"
    assert route(policy, ledger, {"home": busy, "openai:m": other}).started.model == "openai:m"
    with pytest.raises(OverloadedError, match="full"):
        route(policy, ledger, {"home": busy, "openai:m": other}, is_private=True)


def test_error_says_who_was_not_asked_because_the_conversation_is_private(ledger: Ledger) -> None:
    policy = Policy(local="home", rules=(Rule(model="openai:m", local_fails=True),))
    error = ParameterError("too long.", param="messages", code="context_length_exceeded")
    small = Local("home", error)
    assert route(policy, ledger, {"home": small, "openai:m": Local("openai:m")}).events
    with pytest.raises(ParameterError) as caught:
        route(policy, ledger, {"home": small}, is_private=True)
    assert (caught.value.param, caught.value.code) == ("messages", "context_length_exceeded")
    words = "too long. This conversation is private, so openai:m was not asked instead."
    assert str(caught.value) == words
    alone = Policy(local="home")
    with pytest.raises(ParameterError, match=r"^too long\.$"):
        route(alone, ledger, {"home": small}, is_private=True)


def test_when_all_fail_the_first_reason_is_told(ledger: Ledger) -> None:
    first, second = Local(error=GatewayError("one.")), Local(error=GatewayError("two."))
    models = {"openai:m": first, "home": second}
    with pytest.raises(GatewayError, match="one"):
        route(ANY, ledger, models)


def test_texts_and_embeddings_stay_here(ledger: Ledger) -> None:
    async def run() -> tuple[list[Event], Any]:
        @asynccontextmanager
        async def open_model(name: str) -> AsyncIterator[ChatModel]:
            assert name == "home"
            yield Local()  # type: ignore[misc]

        routed = RoutedModel(ANY, "auto", open_model, hosted, ledger)
        events = [event async for event in routed.complete(TextRequest(prompt="x"))]
        return events, await routed.embed(["x"])

    assert asyncio.run(run()) == ([Started(None, "home")], ([[1.0]], 1))


def test_size_of_a_prompt_is_about_a_quarter_of_its_bytes() -> None:
    request = ChatRequest(messages=({"role": "user", "content": "x" * 4000},))
    assert prompt_tokens(request) == 1004
    assert prompt_tokens(ChatRequest(messages=request.messages, tools=(TOOL,))) > 1010
