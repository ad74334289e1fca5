"""A conversation and what a user can do to it: ask, undo, retry, trim, set. Knows no terminal and
no file.

    session = Session()
    session.ask("halo")
    for delta in session.reply(model): ...      # the answer joins the conversation

The messages alternate user, assistant; a last user message without an answer is *pending*: reply()
answers it. No tools are run here: a model that calls one is quoted.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from bobot.chat import persona
from bobot.chat.messages import Message, parse_messages
from bobot.chat.readable import from_pieces, readable
from bobot.engine.sampling_params import SamplingParams
from bobot.errors import BobotError, RequestError, UsageError
from bobot.text.parts import PartDelta, joined, parts_of

SETTINGS: dict[str, type] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "seed": int,
    "max_tokens": int,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
}
"""What `set` changes; the allowed ranges are those of SamplingParams."""

EFFORTS = ("low", "medium", "high")


class Session:
    """One conversation with its persona and its sampling settings."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.persona = persona.load(persona.DEFAULT)
        self.own_system: str | None = None
        """The system prompt of /system; None: that of the persona."""
        self.settings: dict[str, Any] = {}
        self.open_reasoning = ""
        """What was thought about the pending question before the answer was stopped."""
        self.reasoning_effort: str | None = None
        """One of EFFORTS; None: the model's own."""
        self.name: str | None = None
        """Under which it is saved; None until it is."""
        self.is_private = False
        """Never sent to a hosted model."""

    def system(self, language: str) -> str:
        """The system prompt in force; empty for none."""
        return self.persona.prompt(language) if self.own_system is None else self.own_system

    @property
    def pending(self) -> bool:
        """Whether the last question has no answer yet."""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def num_turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)

    def ask(self, text: str) -> None:
        """Adds a question; one that was left without an answer is replaced."""
        if self.pending:
            self.messages.pop()
        self.messages.append(Message("user", text))

    def undo(self) -> str:
        """Takes back the last question and its answer; returns the question. Raises UsageError."""
        if not self.messages:
            raise UsageError("there is nothing to undo: the conversation is empty.")
        last = max(i for i, message in enumerate(self.messages) if message.role == "user")
        question = self.messages[last].content
        del self.messages[last:]
        return question

    def retry(self) -> None:
        """Takes back the last answer, so that its question is pending again. Raises UsageError."""
        if not self.messages:
            raise UsageError("there is nothing to retry: the conversation is empty.")
        if not self.pending:
            self.messages.pop()

    def take_persona(self, name: str) -> None:
        """Takes on the persona `name`, shipped or in a file; its system prompt replaces one of our
        own.
        """
        self.persona = persona.load(name)
        self.own_system = None

    def clear(self) -> None:
        """Forgets the messages and the name; persona, system prompt and settings stay."""
        self.messages = []
        self.name = None

    # ------------------------------------------------------------------ settings

    def set(self, name: str, text: str) -> None:
        """Changes one sampling setting; "default" gives it back to the model. Raises a BobotError
        that names the allowed values, and changes nothing then.
        """
        if name not in SETTINGS:
            raise UsageError(
                "{name!r} is no setting; there are {known}.", name=name, known=", ".join(SETTINGS)
            )
        changed = {key: value for key, value in self.settings.items() if key != name}
        if text != "default":
            changed[name] = _number(name, text)
        SamplingParams(**changed)
        self.settings = changed

    def default_of(self, name: str, model: Any) -> float | int | None:
        """The value of a setting that was not changed: its publisher's advice, else that of
        SamplingParams.
        """
        defaults = {**vars(SamplingParams(max_tokens=None)), **model.default_sampling}
        return defaults[name]

    def sampling(self) -> dict[str, Any]:
        """The keyword arguments for LocalModel: what was set, and answers as long as the context
        allows.
        """
        return {"max_tokens": None, **self.settings}

    def set_reasoning_effort(self, text: str, model: Any = None) -> None:
        """Sets how long the model thinks; "default" leaves it to the model. Raises UsageError for
        another value, or where this model has no such setting.
        """
        if text not in (*EFFORTS, "default"):
            raise UsageError(
                "reasoning effort is {value!r}; allowed: {allowed}.",
                value=text,
                allowed=", ".join((*EFFORTS, "default")),
            )
        if model is not None and not takes_effort(model):
            raise UsageError("{model} has no reasoning effort to set.", model=model.name)
        self.reasoning_effort = None if text == "default" else text

    @property
    def last_reasoning(self) -> str:
        """What the model thought before its last answer; empty if nothing."""
        if self.pending and self.open_reasoning:
            return self.open_reasoning
        answers = [message for message in self.messages if message.role == "assistant"]
        return answers[-1].reasoning if answers else ""

    # ------------------------------------------------------------------ generation

    def prompt(self, language: str) -> list[dict[str, str]]:
        """The messages as the model gets them: the system prompt, if any, and the conversation."""
        system = self.system(language)
        head = [Message("system", system)] if system else []
        return [message.as_dict() for message in (*head, *self.messages)]

    def num_prompt_tokens(self, model: Any, language: str) -> int:
        """How many tokens the conversation takes now, the start of the answer included."""
        if not has_template(model):
            return len(model.encode(self._plain_text()))
        return len(model.tokenizer.encode_chat(self.prompt(language), **self._effort(model)))

    def reply(self, model: Any, language: str = "en") -> Generator[PartDelta, None, None]:
        """The deltas of the answer to the pending question, text and reasoning. What was yielded
        becomes the answer, also when the caller stops early; without a text the question stays
        pending.

        A model without a chat template continues the text of the conversation. Raises the model's
        errors.
        """
        if not self.pending:
            raise RequestError("the conversation has no question to answer.")
        if has_template(model):
            prompt, options = self.prompt(language), self._effort(model) | self.sampling()
            if is_hosted(model):
                options["is_private"] = self.is_private
            deltas = readable(model.answer(prompt, stream=True, **options))
        else:
            deltas = from_pieces(model.generate(self._plain_text(), **self.sampling()))
        seen: list[PartDelta] = []
        try:
            for delta in deltas:
                seen.append(delta)
                yield delta
        finally:
            deltas.close()
            text = "".join(delta.text for delta in seen if delta.kind == "text")
            self.open_reasoning = joined(parts_of(seen), "reasoning")
            if text:
                by = getattr(model.last_stats, "model", None) or model.name
                self.messages.append(Message("assistant", text, self.open_reasoning, by))

    def _effort(self, model: Any) -> dict[str, Any]:
        """A model that knows no reasoning effort is asked without it."""
        if self.reasoning_effort is None or not takes_effort(model):
            return {}
        return {"reasoning_effort": self.reasoning_effort}

    def trim(self, model: Any, language: str = "en") -> int:
        """Drops the oldest turns until the conversation fills at most half the model's context;
        returns how many. The pending question stays. Raises RequestError, and drops nothing, if
        it alone is too long.
        """
        if model.max_model_len is None:
            raise UsageError("{model} does not say how long its context is.", model=model.name)
        kept = list(self.messages)
        dropped = 0
        try:
            while 2 * self.num_prompt_tokens(model, language) > model.max_model_len:
                starts = [i for i, message in enumerate(self.messages) if message.role == "user"]
                if len(starts) < 2:
                    break
                self.messages = self.messages[starts[1] :]
                dropped += 1
            size = self.num_prompt_tokens(model, language)
            if size >= model.max_model_len:
                raise RequestError(
                    "the last message alone takes {size} tokens; the model's context has {limit}.",
                    hint="Shorten it, or use a model with a longer context.",
                    size=size,
                    limit=model.max_model_len,
                )
        except BobotError:
            self.messages = kept
            raise
        return dropped

    def _plain_text(self) -> str:
        return "\n".join(message.content for message in self.messages)

    # ------------------------------------------------------------------ as data

    def as_dict(self) -> dict[str, Any]:
        """The conversation as JSON values; from_dict() gives it back."""
        return {
            "persona": self.persona.name,
            "persona_system": self.persona.system,
            "system": self.own_system,
            "settings": self.settings,
            "reasoning_effort": self.reasoning_effort,
            "messages": [message.as_dict() for message in self.messages],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Session:
        """Raises KeyError, TypeError, AttributeError or a BobotError when `values` are no
        conversation.
        """
        session = cls()
        name, system = values["persona"], values["persona_system"]
        session.persona = (
            persona.load(name)
            if name in persona.shipped()
            else persona.Persona(
                str(name), {}, {str(key): str(text) for key, text in system.items()}
            )
        )
        session.own_system = None if values["system"] is None else str(values["system"])
        for key, value in values["settings"].items():
            session.set(key, str(value))
        session.set_reasoning_effort(values.get("reasoning_effort") or "default")
        session.messages = parse_messages(values["messages"])
        return session


def has_template(model: Any) -> bool:
    """Whether the model's folder has a chat template, so that it can take turns."""
    return model.tokenizer is not None and model.tokenizer.chat_template is not None


def is_hosted(model: Any) -> bool:
    """Whether the model runs on its owner's computers (a BlockingModel of gateway/)."""
    return getattr(model, "is_hosted", False)


def takes_effort(model: Any) -> bool:
    """Whether the model's chat template can be told how long to think."""
    return has_template(model) and model.tokenizer.takes("reasoning_effort")


def _number(name: str, text: str) -> float | int:
    try:
        return SETTINGS[name](text)
    except ValueError:
        pass
    if SETTINGS[name] is int:
        raise UsageError(
            "{name} takes a whole number or default, not {text!r}.", name=name, text=text
        )
    raise UsageError("{name} takes a number or default, not {text!r}.", name=name, text=text)
