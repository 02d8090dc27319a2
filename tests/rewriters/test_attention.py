"""Attention: queries and keys share a gate, the result has the value's features."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import SHAPES, WIDTH, check, check_between, ideal

SQUARE = WIDTH * WIDTH
PROJECTIONS: dict[str, Any] = {"one_sided": 4 * WIDTH, "two_sided": 4 * SQUARE}


class LearnedQueries(nn.Module):
    """Several heads of queries for each of keys, the queries a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 4, 3, 4))
        self.key, self.value, self.out = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8), nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        key, value = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.key, self.value))
        query = self.query.expand(x.shape[0], -1, -1, -1)
        return self.out(F.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2).flatten(2))


def test_learned_queries_for_shared_keys() -> None:
    check_between("tokens", LearnedQueries(), one_sided=3 * WIDTH + 48, two_sided=32 * WIDTH, slack=0.05)


class Attention(nn.Module):
    """Self-attention with 4 heads, in one of several ways to write it."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = (layer(x).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(self.attend(*heads).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        causal = torch.ones(5, 5, dtype=torch.bool).tril()
        match self.variant:
            case "written out":
                return ((q / 2) @ k.transpose(-2, -1)).softmax(-1) @ v
            case "with dropout":
                return F.dropout((q @ k.mT).softmax(-1), 0.1, self.training) @ v
            case "causal":
                return (q @ k.mT).masked_fill(~causal, -torch.inf).softmax(-1) @ v
            case "merged with the batch":
                q, k, v = (t.reshape(-1, 5, 4) for t in (q, k, v))
                return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).view(-1, 4, 5, 4)
            case "fused":
                return F.scaled_dot_product_attention(q, k, v)
            case "fused, causal":
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)
            case "fused, mask":
                return F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
            case "fused, bias":
                return F.scaled_dot_product_attention(q, k, v, attn_mask=q.new_ones(5, 5), scale=0.1)
            case "linear":
                return (q.relu() + 0.0) @ (k.relu().mT @ v)
            case "einsum":
                scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
                return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        raise ValueError(self.variant)


@pytest.mark.parametrize(
    "variant",
    [
        "written out",
        "with dropout",
        "causal",
        "merged with the batch",
        "fused",
        "fused, causal",
        "fused, mask",
        "fused, bias",
        "linear",
        "einsum",
    ],
)
def test_self_attention(variant: str) -> None:
    check_between("tokens", Attention(variant), **PROJECTIONS, gates=0)


class GroupedQueries(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.key, self.value))
        if not self.fused:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        attended = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.fused)
        return self.out(attended.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [True, False])
def test_grouped_queries(fused: bool) -> None:
    sizes: dict[str, Any] = {"one_sided": 3 * WIDTH, "two_sided": 3 * SQUARE}
    check_between("tokens", GroupedQueries(fused), **sizes, gates=0)


class MultiHeadAttention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, **self.options)[0]


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(weights: bool) -> None:
    check_between("tokens", MultiHeadAttention(need_weights=weights), **PROJECTIONS, slack=0.02)


def test_multi_head_attention_with_a_mask() -> None:
    class Masked(MultiHeadAttention):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
            return self.attention(x, x, x, attn_mask=mask, need_weights=True)[0]

    check_between("tokens", Masked(), **PROJECTIONS, slack=0.02)


@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_layer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, 0.1, batch_first=True, norm_first=norm_first)
    sizes: dict[str, Any] = {"one_sided": 5 * WIDTH + 32, "two_sided": 4 * SQUARE + 2 * 32 * WIDTH}
    check_between("tokens", layer, **sizes, slack=0.02, gates=0)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(3, WIDTH)
        self.layer = nn.TransformerDecoderLayer(WIDTH, 4, 32, 0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.write(x)
        return self.head(self.layer(tokens, tokens.flip(1)).mean(1))


def test_a_decoder_layer_is_sound() -> None:
    """nn.MultiheadAttention cuts up its weight where keys are not the queries: that weight is locked whole."""
    cut_up = 3 * SQUARE + 3 * WIDTH
    share = ideal(one_sided=4 * WIDTH + 6 * WIDTH + 32, two_sided=5 * SQUARE + 2 * 32 * WIDTH, locked=cut_up)
    check(Decoder(), torch.randn(SHAPES["tokens"]), at_least=share)


class RelativeKeys(nn.Module):
    """Scores with a learned embedding of the distance between two positions, for every head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.distances = nn.Parameter(torch.randn(5, 5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bqd,qkd->bqk", self.query(x), self.distances)
        return scores.softmax(-1) @ self.value(x)


def test_learned_relative_keys() -> None:
    check_between("tokens", RelativeKeys(), one_sided=2 * WIDTH + 25 * WIDTH, two_sided=2 * SQUARE)


def test_scores_with_features_of_each_head() -> None:
    """The bias of each head comes from a linear layer (as in Swin v2): the scores have features along the heads."""

    class BiasedScores(Attention):
        def __init__(self) -> None:
            super().__init__("biased")
            self.bias = nn.Linear(2, 4)

        def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            bias = self.bias(torch.ones(5, 5, 2)).permute(2, 0, 1)
            return (q @ k.mT + bias).softmax(-1) @ v

    check_between("tokens", BiasedScores(), one_sided=4 * WIDTH + 12, two_sided=4 * SQUARE)


def test_softmax_by_its_special_names() -> None:
    check_between("lines", lambda x: torch.special.log_softmax(torch.special.softmax(x, -1), -1), gates=1)
