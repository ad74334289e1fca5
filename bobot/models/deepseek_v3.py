"""DeepSeek-V3 (arXiv:2412.19437) and Kimi K2 (arXiv:2507.20534): latent attention, many experts.

Attention (MLA, arXiv:2405.04434): keys and values of all heads are linear in one latent vector per
token, so only that latent and one rotary key are cached, for all heads together:

    query = [plain query @ Wk, rotated part]    key = [latent, rotated part]    value = latent
    output of a head = Wv @ attention

Wk and Wv are the key and the value half of kv_b_proj, folded into query and output (the "absorb"
form of DeepSeek inference/model.py). Scores over a latent of 512 cost three times the products of
scores over expanded keys of 192, and a prompt feels it; what is gained is one form for prompt,
decoding and training.

Router: sigmoid scores in float32; a bias that balances the load takes part in the choice and not in
the weights; experts stand in groups and only the best groups are looked into. Published forms and
their names: `deepseek_v3_dialects.py`.

Axes: T packed tokens, R chosen rows, D hidden, N heads, P plain part of a query, C latent, H latent
and rotary part, U value of a head, E experts, G groups of experts, A active experts of a token, F
intermediate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bobot.errors import ConfigError
from bobot.layers.causal import CausalLM
from bobot.layers.context import AttentionContext, AttentionSpec
from bobot.layers.decoder import Decoder
from bobot.layers.linear import Linear
from bobot.layers.mlp import SwiGLU
from bobot.layers.norm import RMSNorm
from bobot.ops.linear import linear, product_dtype
from bobot.ops.moe import mixture_of_experts
from bobot.ops.rope import (
    RopeParameters,
    apply_rope,
    yarn_mscale,
)

LATENT_EPS = 1e-6
"""Of the norms of both latents, whatever rms_norm_eps says (DeepSeek inference/model.py 278)."""


@dataclass(frozen=True, kw_only=True)
class DeepseekV3Config:
    """The family's settings, under their Hugging Face names. Raises ConfigError if they can't fit
    together.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    first_k_dense_replace: int
    """So many layers have an ordinary MLP; experts begin after them."""
    num_attention_heads: int
    q_lora_rank: int | None
    """Width of the query's latent; None: queries come straight from the hidden state."""
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope: RopeParameters = field(default_factory=RopeParameters)
    tie_word_embeddings: bool = False
    num_nextn_predict_layers: int = 0
    """Layers behind the last that guess further tokens; files carry them, this model does not."""

    def __post_init__(self) -> None:
        if self.qk_rope_head_dim % 2:
            raise ConfigError(
                "qk_rope_head_dim is {found}; rotary positions need an even number.",
                found=self.qk_rope_head_dim,
            )
        group_size, rest = divmod(self.n_routed_experts, self.n_group)
        if rest or (self.n_group > 1 and group_size < 2):
            raise ConfigError(
                "n_group is {groups}; {experts} experts can't stand in so many equal groups of two "
                "or more.",
                groups=self.n_group,
                experts=self.n_routed_experts,
            )
        if self.topk_group > self.n_group or (
            self.num_experts_per_tok > self.topk_group * group_size
        ):
            raise ConfigError(
                "num_experts_per_tok is {active}; {chosen} of {groups} groups of {size} experts do "
                "not give so many.",
                active=self.num_experts_per_tok,
                chosen=self.topk_group,
                groups=self.n_group,
                size=group_size,
            )

    def attention_spec(self) -> AttentionSpec:
        """One key for all heads: the latent and the rotary part; its values are the latent.

        The scale is that of the expanded form; YaRN's temperature, which other families apply to
        cos and sin, acts on it (transformers modeling_deepseek_v3.py, yarn_apply_mscale).
        """
        scale = (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5
        if self.rope.kind == "yarn" and self.rope.mscale_all_dim:
            scale *= yarn_mscale(self.rope.factor, self.rope.mscale_all_dim) ** 2
        return AttentionSpec(
            num_heads=self.num_attention_heads,
            num_kv_heads=1,
            head_dim=self.kv_lora_rank + self.qk_rope_head_dim,
            v_head_dim=self.kv_lora_rank,
            v_is_k_prefix=True,
            scale=scale,
        )


class LatentAttention(nn.Module):
    """Multi-head latent attention in its absorbed form; see the head of this file."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        d, n = config.hidden_size, config.num_attention_heads
        q_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        if config.q_lora_rank is None:
            self.q_proj = Linear(d, n * q_dim, bias=False)
        else:
            self.q_a_proj = Linear(d, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS)
            self.q_b_proj = Linear(config.q_lora_rank, n * q_dim, bias=False)
        self.kv_a_proj_with_mqa = Linear(
            d, config.kv_lora_rank + config.qk_rope_head_dim, bias=False
        )
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_EPS)
        kv_dim = config.qk_nope_head_dim + config.v_head_dim
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, n * kv_dim, bias=False)
        self.o_proj = Linear(n * config.v_head_dim, d, bias=False)
        self.config = config
        self.spec = config.attention_spec()

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        c = self.config
        q_TN = self._queries(x_TD).unflatten(-1, (c.num_attention_heads, -1))
        q_TNP, q_rotary = q_TN.split((c.qk_nope_head_dim, c.qk_rope_head_dim), dim=-1)
        latent_TC, k_rotary = self.kv_a_proj_with_mqa(x_TD).split(
            (c.kv_lora_rank, c.qk_rope_head_dim), dim=-1
        )
        latent_T1C = self.kv_a_layernorm(latent_TC)[:, None]
        k_T1H = torch.cat((latent_T1C, rotate_pairs(k_rotary[:, None], cos, sin)), dim=-1)
        wide = product_dtype(x_TD)
        key_NPC, value_NUC = (half.to(wide) for half in self.halves_of_kv_b())
        q_TNC = torch.einsum("tnp,npc->tnc", q_TNP.to(wide), key_NPC).to(x_TD.dtype)
        q_TNH = torch.cat((q_TNC, rotate_pairs(q_rotary, cos, sin)), dim=-1)
        mixed_TNC = attn.attend(layer, self.spec, q_TNH, k_T1H, k_T1H[..., : c.kv_lora_rank])
        out_TNU = torch.einsum("tnc,nuc->tnu", mixed_TNC.to(wide), value_NUC).to(x_TD.dtype)
        return self.o_proj(out_TNU.flatten(-2))

    def _queries(self, x_TD: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            return self.q_proj(x_TD)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TD)))

    def halves_of_kv_b(self) -> tuple[Tensor, Tensor]:
        """The key (N, P, C) and the value part (N, U, C) of every head."""
        c = self.config
        per_head = self.kv_b_proj.weight.unflatten(0, (c.num_attention_heads, -1))
        key_NPC, value_NUC = per_head.split((c.qk_nope_head_dim, c.v_head_dim), dim=1)
        return key_NPC, value_NUC


def rotate_pairs(x_TNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Adjacent elements (2i, 2i + 1) rotated against each other; the result has them as halves.

    Here and not in the weights, as for other families: scales of 128 rows can't follow a row.
    """
    halves_TNH = x_TNH.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return apply_rope(halves_TNH, cos, sin)


class DeepseekV3Router(nn.Module):
    """Which experts a token passes, and with which weights."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        experts = config.n_routed_experts
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        # Moved by the load of the experts, not by gradients (arXiv:2408.15664).
        self.e_score_correction_bias = nn.Parameter(torch.zeros(experts), requires_grad=False)
        self.config = config

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Experts (T, A) and their weights (T, A) in x's dtype."""
        c = self.config
        scores_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
        choice_TE = scores_TE + self.e_score_correction_bias
        if c.topk_group < c.n_group:
            choice_TE = self._within_best_groups(choice_TE)
        experts_TA = choice_TE.topk(c.num_experts_per_tok, dim=-1).indices
        weights_TA = scores_TE.gather(-1, experts_TA)
        if c.norm_topk_prob:
            weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + 1e-20)
        return experts_TA, (weights_TA * c.routed_scaling_factor).to(x_TD.dtype)

    def _within_best_groups(self, choice_TE: Tensor) -> Tensor:
        """-inf for experts outside the best groups; a group is as good as its best two experts."""
        choice_TGE = choice_TE.unflatten(-1, (self.config.n_group, -1))
        strength_TG = choice_TGE.topk(2, dim=-1).values.sum(-1)
        best = strength_TG.topk(self.config.topk_group, dim=-1).indices
        is_out_TG = torch.ones_like(strength_TG, dtype=torch.bool).scatter(-1, best, False)
        return choice_TGE.masked_fill(is_out_TG[..., None], float("-inf")).flatten(-2)


class DeepseekV3Experts(nn.Module):
    """All routed experts of a layer, stacked: gate and up (E, F, D), down (E, D, F)."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        e, f, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_proj = nn.Parameter(torch.empty(e, f, d))
        self.up_proj = nn.Parameter(torch.empty(e, f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))

    def run(self, e: int, x_RD: Tensor) -> Tensor:
        """Expert e, a SwiGLU network: (R, D)."""
        hidden_RF = F.silu(linear(x_RD, self.gate_proj[e])) * linear(x_RD, self.up_proj[e])
        return linear(hidden_RF, self.down_proj[e])


class DeepseekV3MoE(nn.Module):
    """A few of many experts, and one network that every token passes."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.gate = DeepseekV3Router(config)
        self.experts = DeepseekV3Experts(config)
        shared_size = config.n_shared_experts * config.moe_intermediate_size
        self.shared_experts = SwiGLU(config.hidden_size, shared_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        experts_TA, weights_TA = self.gate(x_TD)
        routed_TD = mixture_of_experts(x_TD, experts_TA, weights_TA, self.experts.run)
        return routed_TD + self.shared_experts(x_TD)


class DeepseekV3Layer(nn.Module):
    def __init__(self, config: DeepseekV3Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if layer < config.first_k_dense_replace:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)
        else:
            self.mlp = DeepseekV3MoE(config)

    def forward(
        self, x_TD: Tensor, cos: Tensor, sin: Tensor, layer: int, attn: AttentionContext
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos, sin, layer, attn)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class DeepseekV3(CausalLM):
    float32_parameters = ("model.layers.{n}.mlp.gate.e_score_correction_bias",)
    """Stay float32 whatever dtype the rest has."""
    unpacked_parameters = (
        "model.layers.{n}.self_attn.kv_b_proj.weight",
        "model.layers.{n}.mlp.gate.weight",
    )
    """Plain in memory also where the file has them packed: they are cut and folded, or multiplied
    in float32. It adds 0.05 % to Kimi K2's bytes; unpacking FP8 in each step took longer than the
    rest of a token's attention (34 ms and 27 ms a layer, one core).
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        layers = (DeepseekV3Layer(config, n) for n in range(config.num_hidden_layers))
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        super().__init__(config, Decoder(config, layers, norm, config.qk_rope_head_dim))

    def kv_specs(self) -> list[AttentionSpec]:
        return [self.config.attention_spec()] * self.config.num_hidden_layers
