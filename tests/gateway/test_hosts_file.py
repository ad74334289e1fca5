"""hosts.toml: the shipped hosts, a user's own, and what is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bobot import gateway
from bobot.chat.protocol import Usage
from bobot.errors import ConfigError, GatewayError, NotFoundError, UsageError
from bobot.gateway.client import base_url
from bobot.gateway.hosts import WIRES, load_hosts

OWN = """
[hosts.desk]
wire = "openai"
base_url = "https://desk.example/v1"
key_env = "DESK_KEY"
accepts = ["top_k"]
[hosts.desk.models]
"big" = { context_length = 1000, input = 1.0, output = 2 }
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bobot").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path), "DESK_KEY": "k-1", "OPENAI_API_KEY": "k-2"}


def write(environ: dict[str, str], text: str) -> None:
    (Path(environ["XDG_CONFIG_HOME"]) / "bobot" / "hosts.toml").write_text(text)


def test_shipped_hosts_are_whole(environ: dict[str, str]) -> None:
    hosts = load_hosts(environ)
    assert list(hosts) == ["openai", "anthropic", "gemini", "xai"]
    for host in hosts.values():
        assert host.wire in WIRES
        assert host.key_env and host.keys_page and host.as_of and host.source
        assert host.base_url.startswith("https://")
        for name, facts in host.models.items():
            assert facts.context_length and facts.input and facts.output is not None, name
            assert facts.cached is None or facts.cached <= facts.input, name


def test_dated_name_has_the_price_of_its_plain_one(environ: dict[str, str]) -> None:
    openai = load_hosts(environ)["openai"]
    assert openai.facts("gpt-4o-2024-08-06") == openai.facts("gpt-4o")
    million = Usage(prompt_tokens=10**6, completion_tokens=10**6)
    assert openai.facts("gpt-4o").cost_usd(million) == pytest.approx(12.5)
    assert openai.facts("gpt-4o-strange").cost_usd(million) is None
    anthropic = load_hosts(environ)["anthropic"]
    assert anthropic.facts("claude-haiku-4-5-20251001").context_length == 200000


def test_own_hosts_and_models_join_the_shipped_ones(environ: dict[str, str]) -> None:
    write(environ, OWN + '[hosts.openai.models]\n"gpt-next" = { input = 1, output = 2 }\n')
    hosts = load_hosts(environ)
    assert hosts["desk"].models["big"].context_length == 1000
    assert {"gpt-next", "gpt-4o"} <= set(hosts["openai"].models)
    model = gateway.open_model("desk:big", environ)
    assert (model.name, model.max_model_len) == ("desk:big", 1000)
    names = gateway.model_names(environ)
    assert "desk:big" in names and "openai:gpt-next" in names
    assert not any(name.startswith("xai:") for name in names), "a host without a key was listed"


def test_names_of_hosted_models_are_told_from_local_ones(environ: dict[str, str]) -> None:
    write(environ, OWN)
    for name in ("openai:gpt-4o", "desk:x", "gemini:gemini-2.5-pro"):
        assert gateway.is_hosted(name, environ)
    for name in ("gpt-oss:20b", "org/name:Q4_K_M", "openai", "openai:", ":x", "Hello: you"):
        assert not gateway.is_hosted(name, environ)
    with pytest.raises(NotFoundError, match="openai, anthropic, gemini, xai, desk"):
        gateway.open_model("deskk:x", environ)
    with pytest.raises(GatewayError, match="XAI_API_KEY is not set"):
        gateway.open_model("xai:grok-4.3", environ)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[hosts", "is not valid TOML"),
        ("[other]\n", "unknown key 'other'"),
        ("hosts = 3\n", "Expected `object`, got `int`"),
        ('[hosts.x]\nwire = "openai"\n', "missing required field `base_url`"),
        (OWN.replace('"openai"', '"smoke"'), "wire is 'smoke'; allowed: openai,"),
        (OWN.replace("top_k", "top_secret"), "accepts has 'top_secret'"),
        (OWN + "speed = 3\n", "hosts.desk"),
        (OWN.replace("https", "http"), "would send your key over the internet in clear"),
        (OWN.replace("https://desk.example/v1", "desk.example"), "is no address"),
        (OWN.replace("https://", "https://me:pw@"), "is no address"),
        (OWN.replace("DESK_KEY", "sk-abcdef"), "is no name of an environment variable"),
        (OWN.replace("DESK_KEY", "OPENAI_API_KEY"), "belongs to another host"),
        (OWN.replace("hosts.desk", "hosts.Desk"), "can't name a host"),
        (OWN.replace("hosts.desk", "hosts.gpt-oss"), "can't name a host"),
        (OWN.replace("hosts.desk", "hosts.https"), "can't name a host"),
        ('[hosts.openai]\nbase_url = "https://evil.example"\nmodels = {}\n', "unknown field"),
        ("#" * ((1 << 20) + 1), "too large"),
    ],
)
def test_mistake_in_the_file_is_named(environ: dict[str, str], text: str, words: str) -> None:
    write(environ, text)
    with pytest.raises((ConfigError, UsageError)) as caught:
        load_hosts(environ)
    assert words in str(caught.value)
    assert "sk-abcdef" not in str(caught.value)


@pytest.mark.parametrize("near", ["127.0.0.1:80", "192.168.1.5:8000", "localhost", "box.local"])
def test_key_may_go_in_clear_within_a_local_network(environ: dict[str, str], near: str) -> None:
    write(environ, OWN.replace("https://desk.example", f"http://{near}"))
    assert load_hosts(environ)["desk"].base_url == f"http://{near}/v1"


def test_address_in_the_environment_replaces_that_of_the_host(environ: dict[str, str]) -> None:
    openai = load_hosts(environ)["openai"]
    assert base_url(openai, {}) == "https://api.openai.com/v1/"
    proxy = {"OPENAI_BASE_URL": "https://proxy.example/openai/"}
    assert base_url(openai, proxy) == "https://proxy.example/openai/"
    with pytest.raises(UsageError, match=r"OPENAI_BASE_URL: http://proxy\.example would send"):
        base_url(openai, {"OPENAI_BASE_URL": "http://proxy.example"})
