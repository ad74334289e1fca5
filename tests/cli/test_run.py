"""`bobot run`: which word is the prompt, what reaches the model, what goes to stdout and to
stderr.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_model import FakeModel

Run = Callable[..., tuple[int, str, str]]


def test_one_word_is_the_prompt_of_the_default_model(run_bobot: Run, model: FakeModel) -> None:
    assert run_bobot("run", "halo") == (0, "You said: halo\n", "")
    assert model.calls[0]["messages"] == [{"role": "user", "content": "halo"}]


def test_two_words_are_model_and_prompt(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    loaded = []
    monkeypatch.setattr("bobot.load", lambda name: loaded.append(name) or model)
    run_bobot("run", "some/model", "halo")
    run_bobot("run", "-m", "other/model", "halo")
    run_bobot("run", "mistral:7b", stdin=b"from the pipe\n")
    run_bobot("run", "-m", "mistral:7b", "mistral:7b")
    assert loaded == ["some/model", "other/model", "mistral:7b", "mistral:7b"]
    asked = [call["messages"][0]["content"] for call in model.calls]
    assert asked == ["halo", "halo", "from the pipe", "mistral:7b"]


def test_options_may_stand_anywhere_and_two_dashes_end_them(
    run_bobot: Run, model: FakeModel
) -> None:
    run_bobot("run", "some/model", "--seed", "1", "halo")
    run_bobot("run", "--seed", "1", "--", "--help me")
    run_bobot("run", "some/model", "--", "-1")
    asked = [call["messages"][0]["content"] for call in model.calls]
    assert asked == ["halo", "--help me", "-1"]


def test_piped_text_follows_the_prompt(run_bobot: Run, model: FakeModel) -> None:
    run_bobot("run", "Sum up:", stdin=b"line one\nline two\n")
    assert model.calls[-1]["messages"][0]["content"] == "Sum up:\n\nline one\nline two"
    run_bobot("run", "some/model", "-", stdin=b"only this")
    assert model.calls[-1]["messages"][0]["content"] == "only this"
    run_bobot("run", stdin=b"and this")
    assert model.calls[-1]["messages"][0]["content"] == "and this"


@pytest.mark.parametrize(
    ("words", "stdin", "part"),
    [
        ([], b"", "there is no prompt"),
        (["mistral:7b"], b"", "there is no prompt"),
        (["-"], b" \n", "there is no prompt"),
        (["why", "is", "the", "sky"], b"", "4 words"),
        (["-m", "x", "why", "is"], b"", "2 words"),
        ([], b"ab\xff", "not UTF-8 text at byte 2 (0xff)"),
        (["ab\udcff"], b"", "not UTF-8 text at byte 2"),
        (["x", "--stop", ""], b"", "at least one character"),
    ],
)
def test_wrong_prompt_is_wrong_usage(
    run_bobot: Run, model: FakeModel, words: list[str], stdin: bytes, part: str
) -> None:
    status, out, err = run_bobot("run", *words, stdin=stdin)
    assert (status, out) == (2, "")
    assert part in err
    assert not model.calls


def test_sampling_options_reach_the_model(run_bobot: Run, model: FakeModel) -> None:
    words = [
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--top-k",
        "40",
        "--min-p",
        "0.1",
        "--seed",
        "7",
        "--max-tokens",
        "3",
    ]
    run_bobot("run", *words, "x", "--stop", "a", "--stop", "b", "--system", "Be brief.")
    call = model.calls[0]
    assert call.pop("messages")[0] == {"role": "system", "content": "Be brief."}
    assert call == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": 7,
        "max_tokens": 3,
        "stop": ("a", "b"),
    }


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--temperature", "-1", "0 or more"),
        ("--top-p", "2", "0 to 1"),
        ("--max-tokens", "0", "1 or"),
    ],
)
def test_value_out_of_range_is_told_before_a_model_is_loaded(
    run_bobot: Run, option: str, value: str, allowed: str
) -> None:
    status, _, err = run_bobot("run", "no/such-model", "x", option, value)
    assert status == 1
    assert allowed in err


def test_raw_and_a_model_without_template_continue_the_text(
    run_bobot: Run, model: FakeModel
) -> None:
    assert run_bobot("run", "--raw", "Once") == (0, " and so on.\n", "")
    model.tokenizer.chat_template = None
    status, out, err = run_bobot("run", "Once")
    assert (status, out) == (0, " and so on.\n")
    assert "no chat template" in err
    assert [call["prompt"] for call in model.calls] == ["Once", "Once"]
    assert run_bobot("run", "Once", "--system", "x")[0] == 2


def test_json_is_one_object_on_stdout(run_bobot: Run, model: FakeModel) -> None:
    status, out, err = run_bobot("run", "a b", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["text"] == "You said: a b"
    assert report["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert (report["finish_reason"], report["tokens_per_s"]) == ("stop", 12.5)


def test_reasoning_stays_out_of_the_answer_and_stands_in_the_json(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeModel(parts=[("reasoning", "hm so"), ("text", "it is four")])
    monkeypatch.setattr("bobot.load", lambda name: model)
    assert run_bobot("run", "q", "--reasoning-effort", "high") == (0, "it is four\n", "")
    assert model.calls[-1]["reasoning_effort"] == "high"
    report = json.loads(run_bobot("run", "q", "--json").out)
    assert (report["text"], report["reasoning"]) == ("it is four", "hm so")
    assert run_bobot("run", "q", "--reasoning-effort", "max")[0] == 2
    assert run_bobot("run", "q", "--raw", "--reasoning-effort", "low")[0] == 2


def test_stats_and_a_cut_answer_are_told_on_stderr(
    run_bobot: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "12.5 tokens/s" in run_bobot("run", "x", "--stats")[2]
    monkeypatch.setattr("bobot.cli.run.DEFAULT_MAX_TOKENS", 2)
    status, out, err = run_bobot("run", "x")
    assert (status, out) == (0, "You said:\n")
    assert "stopped after 2 tokens; --max-tokens allows more" in err


def test_ctrl_c_keeps_what_was_written_and_exits_with_130(
    run_bobot: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = model._stream

    def interrupted(*args: object) -> object:
        for index, piece in enumerate(stream(*args)):
            if index == 1:
                signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(model, "_stream", interrupted)
    assert run_bobot("run", "a b c d") == (130, "You said:\n", "")
    assert model.closed == 1


def test_missing_model_says_how_to_get_it(run_bobot: Run) -> None:
    status, out, err = run_bobot("run", "mistral:7b", "x")
    assert (status, out) == (1, "")
    assert "bobot pull mistral:7b" in err


def test_published_model_tells_its_story(run_bobot: Run, shared: Path) -> None:
    folder = shared / "weights" / "stories260K"
    expected = json.loads((folder / "expected.json").read_text())
    status, out, _ = run_bobot(
        "run", str(folder), "Once upon a time", "--temperature", "0", "--max-tokens", "20"
    )
    assert status == 0
    assert out.strip().startswith(", there was a little girl named"), expected.keys()


def test_prompt_longer_than_the_context_is_refused_with_both_numbers(
    run_bobot: Run, shared: Path
) -> None:
    folder = shared / "weights" / "stories260K"
    status, out, err = run_bobot("run", str(folder), "--raw", "word " * 1000)
    assert (status, out) == (1, "")
    assert "512" in err
    assert err.count("\n") == 1


def test_how_to_run_a_model_reaches_the_load(
    run_bobot: Run, monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    loaded = []
    monkeypatch.setattr(
        "bobot.load", lambda name, **options: loaded.append((name, options)) or model
    )
    run_bobot("run", "halo")
    run_bobot("run", "-m", "large", "--draft", "small", "halo")
    run_bobot("run", "-m", "large", "--speculation", "off", "halo")
    run_bobot("run", "--activations", "int8", "halo")
    assert loaded[:2] == [(None, {}), ("large", {"draft": "small"})]
    assert loaded[2][1]["engine_config"].speculation == "off"
    assert loaded[3] == (None, {"activations": "int8"})


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--draft", "x", "--speculation", "off"], "--speculation and --draft exclude each other"),
        (["--speculation", "always"], "--speculation is 'always'; allowed: ngram, off"),
        (["--activations", "int4"], "--activations is 'int4'; allowed: int8"),
    ],
)
def test_a_wrong_way_to_run_a_model_is_wrong_usage(
    run_bobot: Run, model: FakeModel, words: list[str], part: str
) -> None:
    status, _, err = run_bobot("run", "halo", *words)
    assert (status, model.calls) == (2, [])
    assert part in err
