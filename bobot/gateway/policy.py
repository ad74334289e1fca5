"""Which model answers: a policy file with rules, read strictly, and the choice they make.

    # ~/.config/bobot/policy.toml
    name = "auto"                        # the model that clients ask for
    aliases = ["smart"]                  # further names, told apart by `asked`
    local = "gpt-oss:20b"                # answers whenever no rule does

    [[rules]]                            # long prompts, for at most 2 dollars a day
    model = "openai:gpt-4.1"
    prompt_tokens_above = 30000
    usd_per_day = 2.0

    [[rules]]                            # tools, where the client asked for "smart"
    model = "anthropic:claude-sonnet-5"
    wants_tools = true
    asked = ["smart"]

    [[rules]]                            # only when the local model could not begin its answer
    model = "openai:gpt-4o-mini"
    local_fails = true
    seconds_per_day = 600

The first rule whose conditions all hold decides; the next ones, and `local`, answer if it fails
before its first word: `local` fails also where a prompt does not fit its context. A private
conversation is never sent to a hosted model, whatever the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bobot.chat.protocol import ChatRequest
from bobot.errors import ConfigError
from bobot.gateway.hosts import Host, check_keys, converted, load_hosts, read_toml
from bobot.gateway.spending import Spent
from bobot.paths import user_paths

SpentToday = Callable[[str], Spent]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model, and the conditions under which it answers; those left out always hold."""

    model: str
    prompt_tokens_above: int | None = None
    wants_tools: bool | None = None
    asked: tuple[str, ...] | None = None
    """Names of the policy, one of which was asked for."""
    local_fails: bool = False
    usd_per_day: float | None = None
    """As long as less was spent on this model since midnight, by list prices."""
    seconds_per_day: float | None = None
    """As long as it answered for less than that since midnight."""

    def holds(self, request: ChatRequest, asked: str, num_prompt_tokens: int) -> bool:
        """Whether every condition but the budgets is met."""
        above, tools = self.prompt_tokens_above, self.wants_tools
        return (
            (above is None or num_prompt_tokens > above)
            and (tools is None or tools == bool(request.tools))
            and (self.asked is None or asked in self.asked)
        )

    def has_budget(self, spent: Spent) -> bool:
        return (self.usd_per_day is None or spent.usd < self.usd_per_day) and (
            self.seconds_per_day is None or spent.seconds < self.seconds_per_day
        )


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    local: str
    name: str = "auto"
    aliases: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name under which a client finds this policy."""
        return (self.name, *self.aliases)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that may answer, the local one first."""
        return tuple(dict.fromkeys([self.local, *(rule.model for rule in self.rules)]))

    def candidates(
        self,
        request: ChatRequest,
        asked: str,
        num_prompt_tokens: int,
        spent: SpentToday,
        is_hosted: Callable[[str], bool],
    ) -> list[str]:
        """The models to try, in order."""
        open_rules = [
            rule
            for rule in self.rules
            if rule.holds(request, asked, num_prompt_tokens)
            and not (request.is_private and is_hosted(rule.model))
            and rule.has_budget(spent(rule.model))
        ]
        before = [rule.model for rule in open_rules if not rule.local_fails]
        after = [rule.model for rule in open_rules if rule.local_fails]
        return list(dict.fromkeys([*before, self.local, *after]))

    def withheld(
        self,
        request: ChatRequest,
        asked: str,
        num_prompt_tokens: int,
        is_hosted: Callable[[str], bool],
    ) -> list[str]:
        """The hosted models that rules would name, were the conversation not private."""
        if not request.is_private:
            return []
        found = [rule.model for rule in self.rules if rule.holds(request, asked, num_prompt_tokens)]
        return list(dict.fromkeys(filter(is_hosted, found)))


def policy_file(environ: Mapping[str, str] | None = None) -> Path:
    """Where a user's policy stands; it need not exist."""
    return user_paths(environ).policy


def load_policy(path: Path, environ: Mapping[str, str] | None = None) -> Policy | None:
    """The policy in the file; None where there is no file. Raises ConfigError for any mistake."""
    if not path.is_file():
        return None
    values = read_toml(path)
    check_keys(path, values, set(Policy.__struct_fields__))
    policy = converted(path, values, Policy)
    hosts = load_hosts(environ)
    _check_names(path, policy)
    if _host_of(policy.local, hosts) is not None:
        raise ConfigError(
            "{file}: local is {found!r}, which is hosted; it answers what must not leave this"
            " machine.",
            file=path,
            found=policy.local,
        )
    for number, rule in enumerate(policy.rules, 1):
        _check_rule(f"{path}: rule {number}", rule, policy, hosts)
    return policy


def _check_names(path: Path, policy: Policy) -> None:
    for name in policy.names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "{file}: {name!r} can't name a policy; allowed: letters, digits and . _ -, at most"
                " 64.",
                file=path,
                name=name,
            )
    for model in policy.models:
        if model in policy.names:
            raise ConfigError(
                "{file}: {name!r} is a name of this policy; its rules must name models.",
                file=path,
                name=model,
            )


def _check_rule(place: str, rule: Rule, policy: Policy, hosts: Mapping[str, Host]) -> None:
    for name in rule.asked or ():
        if name not in policy.names:
            raise ConfigError(
                "{place}: asked names {found!r}; the names of this policy are {allowed}.",
                place=place,
                found=name,
                allowed=", ".join(policy.names),
            )
    limits = (rule.prompt_tokens_above, rule.usd_per_day, rule.seconds_per_day)
    if any(limit is not None and not 0 <= limit < 1e15 for limit in limits):
        raise ConfigError("{place}: a limit must be a number from 0 on.", place=place)
    host = _host_of(rule.model, hosts)
    if rule.usd_per_day is None:
        return
    if host is None:
        raise ConfigError(
            "{place}: {model} runs on this machine and costs nothing; usd_per_day is for hosted"
            " models.",
            place=place,
            model=rule.model,
        )
    if host.facts(rule.model.partition(":")[2]).input is None:
        raise ConfigError(
            "{place}: no price of {model} is known, so usd_per_day can't be kept.",
            hint="Add its price to hosts.toml, or use seconds_per_day.",
            place=place,
            model=rule.model,
        )


def _host_of(model: str, hosts: Mapping[str, Host]) -> Host | None:
    return hosts.get(model.partition(":")[0]) if ":" in model else None
