"""How well a model predicts held-out documents, in bits per byte, and what it answers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from bobot.layers.context import PackedAttention
from bobot.models.llama import Llama
from bobot.training.batches import Batch, micro_batches
from bobot.training.chatml import END_OF_TEXT, IM_END, encode_conversation
from bobot.training.shards import Documents


def batch_loss(model: Llama, batch: Batch) -> Tensor:
    """The sum over the batch's targets of -log p(target), in nats."""
    hidden_TD = model(batch.ids_T, batch.positions_T, PackedAttention(batch.starts))
    logits_RV = model.logits(hidden_TD.index_select(0, batch.rows_R))
    return F.cross_entropy(logits_RV, batch.targets_R, reduction="sum")


@torch.no_grad()
def bits_per_byte(
    model: Llama,
    tokenizer: Tokenizer,
    documents: Documents,
    max_tokens: int,
    *,
    assistant_only: bool,
) -> float:
    """Bits the model needs per byte of text it predicts; comparable between tokenizers."""
    chosen = [(0, index) for index in range(len(documents))]
    nats, num_bytes = 0.0, 0
    for batch in micro_batches([documents], chosen, max_tokens, assistant_only=assistant_only):
        nats += float(batch_loss(model, batch))
        text = tokenizer.decode(batch.targets_R.tolist(), skip_special_tokens=False)
        num_bytes += len(text.replace(IM_END, "").replace(END_OF_TEXT, "").encode())
    return nats / math.log(2) / max(num_bytes, 1)


@torch.no_grad()
def answer(model: Llama, tokenizer: Tokenizer, prompt: str, max_tokens: int = 60) -> str:
    """The most likely answer to one user turn, without any cache."""
    ids, _ = encode_conversation(tokenizer, [{"role": "user", "content": prompt}])
    opening, _ = encode_conversation(tokenizer, [{"role": "assistant", "content": ""}])
    ids += opening[:-2]
    num_prompt_tokens = len(ids)
    stops = (tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT))
    while len(ids) - num_prompt_tokens < max_tokens:
        hidden_TD = model(torch.tensor(ids), torch.arange(len(ids)), PackedAttention())
        following = int(model.logits(hidden_TD[-1:]).argmax())
        if following in stops:
            break
        ids.append(following)
    return tokenizer.decode(ids[num_prompt_tokens:])
