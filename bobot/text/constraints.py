"""What an answer may say, token by token: grammars of llguidance over a tokenizer's own bytes.

    constraints = Constraints(tokenizer, vocab_size, eos_ids)
    constraint = constraints.of(grammar_for([json_schema(schema)], "start: @rule_0"))
    constraint.masks([])      # one bit for each id that may come first
    constraint.accept(token_id)

A grammar is Lark in llguidance's dialect (docs/syntax.md of that project) with named rules beside
it. The end tokens may come exactly where the grammar is satisfied.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from bobot.errors import RequestError
from bobot.text.tokenizer import Tokenizer

Rule = Mapping[str, Any]
"""One grammar: {"json_schema": ...} or {"lark_grammar": ...}."""

MAX_KEPT = 64
"""Grammars whose compiled form is kept; an agent sends the same tools with each request."""
_LIMITS = LLParserLimits(verbose_errors=False)
_SPACE = r"( |\n{1,2}[ \t]{0,20})"
"""White space between the tokens of JSON: a model that wanders off can't fill its context with it.
"""


def json_schema(schema: Any, *, is_strict: bool = True) -> Rule:
    """JSON that fits the schema; not strict: keywords that llguidance does not know are let go."""
    options = {"whitespace_pattern": _SPACE, "lenient": not is_strict}
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise RequestError("The JSON schema is {found}; allowed: an object.", found=repr(schema))
    rule = {"json_schema": {**schema, "x-guidance": options}}
    try:
        json.dumps(rule)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError("The JSON schema is no JSON, or nested too deeply.") from error
    return rule


def regex(pattern: str) -> Rule:
    """Text that the whole pattern matches, in the syntax of Rust's regex crate."""
    found = json.loads(LLMatcher.grammar_from_regex(pattern))
    return {"lark_grammar": found["grammars"][0]["lark_grammar"]}


def lark(grammar: str) -> Rule:
    return {"lark_grammar": grammar}


def gbnf(grammar: str) -> Rule:
    """A grammar in llama.cpp's form. RequestError with the place where it is wrong."""
    try:
        return {"lark_grammar": gbnf_to_lark(grammar)}
    except Exception as error:
        raise RequestError(
            "The GBNF grammar can't be read: {problem}", problem=_short(str(error))
        ) from error


def grammar_for(rules: Sequence[Rule], start: str) -> str:
    """The Lark grammar `start`, in which @rule_0, @rule_1 ... stand for `rules`."""
    named = [{"name": f"rule_{number}", **rule} for number, rule in enumerate(rules)]
    return json.dumps({"grammars": [{"lark_grammar": start}, *named]})


def check(rule: Rule) -> None:
    """RequestError with llguidance's reason for a grammar or schema that it can't follow."""
    problem = LLMatcher.validate_grammar(json.dumps({"grammars": [rule]}), limits=_LIMITS)
    if problem and not problem.startswith("WARNING"):
        raise RequestError("It can't be followed: {problem}", problem=_short(problem))


class Constraints:
    """Makes constraints for one model: its tokenizer, the size of its logits, its end tokens."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self.eos_ids = sorted(eos_id for eos_id in eos_ids if eos_id < vocab_size)
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._library: LLTokenizer | None = None
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def of(self, grammar: str) -> GrammarConstraint:
        """A constraint at its beginning; RequestError with llguidance's reason if there is none."""
        if not self.eos_ids:
            raise RequestError("This model has no token that ends an answer: it takes no grammar.")
        with self._lock:
            if self._library is None:
                self._library = LLTokenizer(
                    TokenizerWrapper(_Bytes(self._tokenizer, self.eos_ids[0])),
                    n_vocab=self._vocab_size,
                    eos_token=self.eos_ids,
                )
            matcher = self._kept.pop(grammar, None)
            if matcher is None:
                matcher = LLMatcher(self._library, grammar, log_level=0, limits=_LIMITS)
            if matcher.is_error():
                raise RequestError(
                    "It can't be followed: {problem}", problem=_short(matcher.get_error())
                )
            self._kept[grammar] = matcher
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return GrammarConstraint(matcher.deep_copy(), frozenset(self.eos_ids))


class GrammarConstraint:
    """The state of one sequence; see bobot.engine.constraint.Constraint."""

    def __init__(self, matcher: LLMatcher, eos_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._eos_ids = eos_ids

    def fork(self) -> GrammarConstraint:
        return GrammarConstraint(self._matcher.deep_copy(), self._eos_ids)

    def drafts(self, draft_ids: Sequence[int], most: int) -> tuple[int, ...]:
        """What must follow is the best draft. An end token is none: it can't be taken back."""
        forced = self._matcher.compute_ff_tokens()
        draft = list(forced or draft_ids)[:most]
        size = self._matcher.validate_tokens(draft) if draft else 0
        ends = [at for at, token_id in enumerate(draft[:size]) if token_id in self._eos_ids]
        return tuple(draft[: ends[0] if ends else size])

    def masks(self, draft_ids: Sequence[int]) -> list[bytes]:
        masks = [self._mask()]
        num_taken = 0
        for token_id in draft_ids:
            num_taken += self._matcher.consume_token(token_id)
            masks.append(self._mask())
        if num_taken:
            self._matcher.rollback(num_taken)
        return masks

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)

    def _mask(self) -> bytes:
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():  # whose mask would be the end tokens
            raise RequestError(
                "The grammar can't be followed further: {problem}",
                problem=_short(self._matcher.get_error()),
            )
        return mask


class _Bytes:
    """A tokenizer as llguidance asks for one: the bytes of every id, and text to ids.

    The ids of a text must have exactly its bytes. llguidance forces them where only one text can
    follow, and others would leave it without any token. SentencePiece's own space in front would be
    such a mistake: a line break, which merges with nothing, takes it.
    """

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self.tokens = list(tokenizer.vocabulary.pieces)
        self.special_token_ids = sorted(tokenizer.special_tokens.values())
        for name, token_id in tokenizer.special_tokens.items():
            self.tokens[token_id] = name.encode()
        self.eos_token_id = eos_id
        self.bos_token_id = tokenizer.bos_id
        self._encode = tokenizer.vocabulary.encode_plain
        specials = frozenset(self.special_token_ids)
        self._ids = {
            piece: token_id
            for token_id, piece in reversed(list(enumerate(self.tokens)))
            if piece and token_id not in specials
        }
        self._longest = max(map(len, self._ids), default=1)

    def __call__(self, text: bytes) -> list[int]:
        for lead in ("", "\n"):
            try:
                ids = self._encode(lead + text.decode(), False)
            except UnicodeDecodeError:
                break
            size, at = 0, len(ids)
            while at and size < len(text):
                at -= 1
                size += len(self.tokens[ids[at]])
            if b"".join(self.tokens[token_id] for token_id in ids[at:]) == text:
                return ids[at:]
        return self._greedy(text)

    def _greedy(self, text: bytes) -> list[int]:
        """The longest piece at each place; bytes without a piece are left out."""
        ids, at = [], 0
        while at < len(text):
            sizes = range(min(self._longest, len(text) - at), 0, -1)
            size = next((size for size in sizes if text[at : at + size] in self._ids), 0)
            if size:
                ids.append(self._ids[text[at : at + size]])
            at += size or 1
        return ids


def _short(problem: str) -> str:
    return " ".join(problem.split())[:300]
