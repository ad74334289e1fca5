"""A user with a host `desk` on loopback and a policy file, for tests of policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_hosts import KEY, FakeHost, running_host


@contextmanager
def desk_with(
    policy: str, folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHost]:
    """The host, which says `answer`; hosts.toml and policy.toml lie in `folder`, the user's own."""
    monkeypatch.setenv("DESK_KEY", KEY)
    with running_host("openai", [("text", answer)]) as host:
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'[hosts.desk]\nwire = "openai"\nbase_url = "{host.base_url}"\nkey_env = "DESK_KEY"\n'
        )
        (folder / "policy.toml").write_text(policy)
        yield host
