"""What the engine counts: totals since it started, and how things stand now."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EngineStats:
    num_steps: int = 0
    num_chunks: int = 0
    """Sequences that took part in each step, summed over the steps."""
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    """Tokens that went through the model, recomputed ones and drafts included."""
    num_cached_tokens: int = 0
    """Tokens that the prefix cache saved."""
    num_restored_tokens: int = 0
    """Those of them that came from the disk."""
    num_generated_tokens: int = 0
    num_drafts: int = 0
    """Runs of tokens that speculation proposed."""
    num_drafted_tokens: int = 0
    """Tokens that speculation proposed."""
    num_accepted_tokens: int = 0
    """Those of them that were right."""
    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    num_disk_bytes: int = 0
    """Of the prefix cache on the disk, all models together."""
    num_dropped_blocks: int = 0
    """Not kept on the disk, because it was behind."""
