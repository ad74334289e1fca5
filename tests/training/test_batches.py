"""Packing, masks and steps: what a model learns from does not depend on how it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from bobot.models.llama import Llama, LlamaConfig
from bobot.training.batches import micro_batches, pack, plan_stage
from bobot.training.chatml import encode_conversation
from bobot.training.evaluate import batch_loss
from bobot.training.shards import Documents, read_shard, write_shard
from bobot.training.vocabulary import train_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "apa kabar?"},
    {"role": "assistant", "content": "Kabar baik."},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "You are welcome!"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([message["content"] for message in TALK] * 9, 280)


def documents(lengths: list[int], seed: int = 0) -> Documents:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    return Documents(
        ids=rng.integers(0, 50, total).astype(np.uint16),
        said=rng.integers(0, 2, total).astype(np.uint8),
        ends=np.cumsum(lengths),
    )


def small_model() -> Llama:
    torch.manual_seed(0)
    return Llama(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )


def test_only_the_words_of_the_assistant_and_their_end_are_learned(tokenizer: Tokenizer) -> None:
    ids, said = encode_conversation(tokenizer, TALK)
    learned = tokenizer.decode(
        [token for token, is_said in zip(ids, said, strict=True) if is_said],
        skip_special_tokens=False,
    )
    assert learned == "Kabar baik.<|im_end|>You are welcome!<|im_end|>"


def test_special_tokens_spelled_in_a_text_stay_text(tokenizer: Tokenizer) -> None:
    plain, _ = encode_conversation(tokenizer, [{"role": "user", "content": "x"}])
    tricky, _ = encode_conversation(tokenizer, [{"role": "user", "content": "x<|im_end|>"}])
    end = tokenizer.token_to_id("<|im_end|>")
    assert tricky.count(end) == plain.count(end) == 1


def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer) -> None:
    for text in (
        "halo dunia",
        "caf\u00e9 \u4f60\u597d \U0001f642",
        "a\n\n  b\t12345 'll",
        "\x00\x7f",
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_packed_documents_have_the_loss_of_each_document_alone() -> None:
    source = documents([5, 9, 3, 12])
    model = small_model()
    together = pack([(source, i) for i in range(4)], assistant_only=False)
    alone = [pack([(source, i)], assistant_only=False) for i in range(4)]
    assert together.starts == [0, 5, 14, 17]
    assert len(together.targets_R) == 29 - 4, "the last token of a document has no target"
    wanted = sum(batch_loss(model, batch).item() for batch in alone)
    assert batch_loss(model, together).item() == pytest.approx(wanted, rel=1e-5)


def test_no_target_crosses_into_the_next_document() -> None:
    source = documents([4, 6])
    batch = pack([(source, 0), (source, 1)], assistant_only=False)
    assert batch.rows_R.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert batch.targets_R.tolist() == source.ids[[1, 2, 3, 5, 6, 7, 8, 9]].tolist()


@pytest.mark.parametrize("assistant_only", [False, True])
def test_four_micro_batches_give_the_gradient_of_one(assistant_only: bool) -> None:
    source = documents([7, 6, 9, 5, 8, 9, 4, 10], seed=1)
    chosen = [(0, index) for index in range(8)]
    gradients = []
    for max_tokens in (58, 18):
        model = small_model()
        batches = micro_batches([source], chosen, max_tokens, assistant_only=assistant_only)
        num_targets = sum(len(batch.targets_R) for batch in batches)
        for batch in batches:
            (batch_loss(model, batch) / num_targets).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert len(batches) >= 4
    for name, whole in gradients[0].items():
        worst = float((whole - gradients[1][name]).abs().max())
        assert worst < 1e-6, f"{name}: {worst}"


def test_a_plan_follows_from_its_seed_and_reads_every_document_before_any_twice() -> None:
    sources = {"a": documents([10] * 20), "b": documents([5] * 30)}
    plan = plan_stage(sources, {"a": 300, "b": 50}, 64, 1000, seed=4)
    again = plan_stage(sources, {"a": 300, "b": 50}, 64, 1000, seed=4)
    other = plan_stage(sources, {"a": 300, "b": 50}, 64, 1000, seed=5)
    assert np.array_equal(plan.order, again.order) and plan.bounds == again.bounds
    assert not np.array_equal(plan.order, other.order)
    seen = [pair for step in range(plan.num_steps) for pair in plan.step(step)]
    from_a = [document for source, document in seen if source == 0]
    assert len(from_a) == 30 and len(set(from_a)) == 20
    lengths = [
        sum(10 if source == 0 else 5 for source, _ in plan.step(i)) for i in range(plan.num_steps)
    ]
    assert max(lengths) <= 64


def test_long_documents_are_cut_and_held_out_ones_are_not_trained_on(
    tmp_path, tokenizer: Tokenizer
) -> None:
    rows = [{"lang": "en", "text": f"row {index} " * 20} for index in range(50)]
    write_shard(
        tmp_path, rows, tokenizer, max_document_tokens=30, held_out_documents=8, made_from="x"
    )
    train, held_out = read_shard(tmp_path), read_shard(tmp_path, held_out=True)
    assert max(train.lengths()) <= 30
    assert "row 21 " in tokenizer.decode(held_out.ids.tolist())
    assert "row 21 " not in tokenizer.decode(train.ids.tolist())
    assert "row 22 " in tokenizer.decode(train.ids.tolist())
