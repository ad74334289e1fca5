"""Token ids in, token ids out: requests, scheduler, paged KV cache, sampler. No text, no HTTP."""

from bobot.engine.config import EngineConfig
from bobot.engine.engine import Engine
from bobot.engine.request import TokenOutput
from bobot.engine.sampling_params import SamplingParams

__all__ = ["Engine", "EngineConfig", "SamplingParams", "TokenOutput"]
