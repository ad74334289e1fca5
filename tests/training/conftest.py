"""A recipe that runs in seconds: a corpus, a generator, a model of 60,000 parameters."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

import pytest

RECIPE = """
name = "tiny"
seed = 3
temperature = 0.3
top_p = 0.9
about = "about.md"

[model]
hidden_size = 64
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 32
max_position_embeddings = 128

[tokenizer]
vocab_size = 288
sources = ["tales", "talk"]
max_characters_per_source = 10_000

[optimizer]
matrix_lr = 0.02
embedding_lr = 0.004
norm_lr = 0.01
momentum = 0.9
weight_decay = 0.01

[run]
tokens_per_micro_batch = 96
max_document_tokens = 64
steps_per_checkpoint = 3
steps_per_evaluation = 20
held_out_documents = 2
sample_prompts = ["hello"]
card_prompts = ["hello"]

[[corpus]]
name = "tales"
file = "tales.jsonl.xz"
license = "CC0-1.0"
source = "example.org/tales"
sha256 = "{sha256}"
rows = 40

[[generator]]
name = "talk"
file = "talk/rows.py"
reads = []
rows = 60

[[stage]]
name = "pretrain"
loss_on = "all"
tokens_per_step = 192
max_steps = 10
warmup_steps = 2
lr_scale = 1.0
decay_from = 1.0
final_lr_scale = 1.0
[stage.mix]
tales = 1500
talk = 500

[[stage]]
name = "sft"
loss_on = "assistant"
tokens_per_step = 96
max_steps = 20
warmup_steps = 0
lr_scale = 1.0
decay_from = 0.0
final_lr_scale = 0.0
[stage.mix]
talk = 1800
"""

GENERATOR = """
import random


def rows(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        yield {"lang": "en", "messages": [
            {"role": "user", "content": f"{a} + {b}"},
            {"role": "assistant", "content": f"{a} plus {b} is {a + b}."},
        ]}
"""


def make_recipe(folder: Path) -> Path:
    """Writes the recipe, its generator and its corpus (in folder/data); the recipe's path."""
    lines = "".join(
        json.dumps({"lang": "en", "text": f"Tale {i}: the cat saw {i} birds in the old tree."})
        + "\n"
        for i in range(50)
    ).encode()
    (folder / "data").mkdir(parents=True)
    (folder / "talk").mkdir()
    (folder / "data" / "tales.jsonl.xz").write_bytes(lzma.compress(lines))
    (folder / "talk" / "rows.py").write_text(GENERATOR)
    (folder / "about.md").write_text("A model for tests.")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.replace("{sha256}", hashlib.sha256(lines).hexdigest()))
    return recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    return make_recipe(tmp_path / "recipe")
