"""Tests of llama.cpp's suite that bobot does not pass, and why. What a test demands against the
rules of this house (a prompt is never cut, an unknown page may not call) stays so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

DRAWS = "the text is what llama.cpp's random numbers give for a seed; bobot's draw others"
MODEL = "another model than the suite's"
VOCABULARY = "counts on another vocabulary than Llama 2's"
MISSING = "bobot has no such feature"

KNOWN: dict[str, str] = {
    "basic::test_server_slots": "/slots shows no texts, so that no flag opens it; a key can",
    "basic::test_load_split_model": MODEL,
    "basic::test_no_ui": "the page is at /app/; / greets as Ollama does",
    "basic::test_server_model_aliases_and_tags": "a model has one name, and no tags",
    "chat_completion::test_chat_completion[[]*": DRAWS,
    "chat_completion::test_chat_completion_stream*": DRAWS,
    "chat_completion::test_chat_completion_with_openai_library": DRAWS,
    "chat_completion::test_chat_completion_cached_tokens": "prefixes are shared in blocks of 16",
    "chat_completion::test_completion_with_response_format[[]response_format1*": "random weights"
    " write another list",
    "compat_anthropic::test_anthropic_tool_result_with_image": "an image is refused with 400, as"
    " the request's mistake, not with 500",
    "compat_anthropic::test_anthropic_vision_format_accepted": "400, not 500, as above",
    "compat_anthropic::test_anthropic_vision_base64*": MODEL,
    "compat_anthropic::test_anthropic_empty_messages": "a chat without a message is refused",
    "compat_oai_responses::test_responses_with_openai_library": DRAWS,
    "compat_oai_responses::test_responses_stream_with_openai_library": DRAWS,
    "compat_oai_responses::test_responses_stream_with_llama_telemetry": "/responses tells neither"
    " timings nor progress",
    "completion::test_completion[[]*": DRAWS,
    "completion::test_completion_stream[[]*": DRAWS,
    "completion::test_completion_prompt_cache": VOCABULARY,
    "completion::test_completion_with_openai_library": DRAWS,
    "completion::test_completion_stream_with_openai_library": DRAWS,
    "completion::test_n_probs_post_sampling": "random weights leave fewer than ten tokens to draw"
    " from",
    "completion::test_nocache_long_input_prompt": VOCABULARY,
    "ctx_shift::test_ctx_shift_disabled_long_prompt": VOCABULARY,
    "ctx_shift::test_ctx_shift_disabled_short_prompt[[]-1*": VOCABULARY,
    "ctx_shift::test_ctx_shift_enabled": "a context is never shifted: nothing is dropped unsaid",
    "kv_keep_only_active::*": "reads lines of llama-server's log",
    "metrics::test_metrics_disabled": "/metrics holds numbers only; a key's scope closes it",
    "metrics::test_metrics_prompt_processed_and_cached": VOCABULARY,
    "metrics::test_metrics_embedding_prompt_is_counted": MODEL,
    "proxy::*": "the server fetches nothing for pages",
    "security::test_access_static_assets*": "the page lies elsewhere",
    "security::test_cors_options[[]origin-*": "credentials of a browser are never let in",
    "security::test_cors_options[[]*Headers*": "the headers that were asked for are named, not *:"
    " browsers do not let * stand for Authorization",
    "security::test_cors_origins_defaults*": "tools that a server runs: " + MISSING,
    "security::test_cors_proxy*": "the server fetches nothing for pages",
    "security::test_local_media_file*": MODEL,
    "sleep::test_server_sleep_read_only_endpoints": "/metrics counts bobot's requests, too, among"
    " them those for /metrics",
    "speculative::*": "llama.cpp's flags for drafts; bobot guesses from repetitions unasked",
}
"""Pattern of FILE::TEST -> reason."""


def reason_for(test: str) -> str:
    """Empty where the failure is a surprise."""
    found = (why for pattern, why in KNOWN.items() if fnmatchcase(test, pattern))
    return next(found, "")
