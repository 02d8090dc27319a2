"""Models as strangers write them: each a small module by someone who never heard of masks.

`STRANGERS` holds them by name. A shape beside a class is that of an input of its forward; BATCH stands for the
dimension that calls may change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils import _pytree as pytree
from torchvision.ops import deform_conv2d

BATCH = -1


@dataclass(frozen=True)
class Normal:
    """An input of normally distributed numbers."""

    shape: tuple[int, ...]

    def draw(self, batch: int) -> Tensor:
        return torch.randn([batch if size == BATCH else size for size in self.shape])


@dataclass(frozen=True)
class Indices:
    """An input of indices below `bound`."""

    bound: int
    shape: tuple[int, ...]

    def draw(self, batch: int) -> Tensor:
        return torch.randint(self.bound, [batch if size == BATCH else size for size in self.shape])


@dataclass(frozen=True)
class Mask:
    """An input of truth values, of which each line has one that is true."""

    shape: tuple[int, ...]

    def draw(self, batch: int) -> Tensor:
        mask = torch.rand([batch if size == BATCH else size for size in self.shape]) > 0.4
        mask[..., 0] = True
        return mask


@dataclass(frozen=True)
class Stranger:
    """A model, the inputs of a call, and the share of its shared entries that must stay plastic."""

    model: Callable[[], nn.Module]
    specification: Mapping[str, Any]
    plastic: float

    def inputs(self, batch: int) -> dict[str, Any]:
        return pytree.tree_map(lambda one: one.draw(batch), dict(self.specification))


STRANGERS: dict[str, Stranger] = {}


def stranger(plastic: float = 0.0, **inputs: Any) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register the decorated class. inputs: by the names of forward's arguments."""

    def register(model: type[nn.Module]) -> type[nn.Module]:
        STRANGERS[model.__name__] = Stranger(model, inputs, plastic)
        return model

    return register


def normal(*shape: int) -> Normal:
    return Normal(shape)


def indices(bound: int, *shape: int) -> Indices:
    return Indices(bound, shape)


def mask(*shape: int) -> Mask:
    return Mask(shape)


VECTOR = normal(BATCH, 12)
SEQUENCE = normal(BATCH, 6, 12)
IMAGE = normal(BATCH, 3, 8, 8)
WORDS = indices(30, BATCH, 6)


def raw(*shape: int) -> nn.Parameter:
    """A parameter as people draw it by hand."""
    return nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for read, written in pairwise(sizes):
        layers += [nn.Linear(read, written), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# Parameters of one's own.


@stranger(plastic=0.67, x=VECTOR)
class RawParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1, self.scale = raw(12, 32), raw(32), raw(32)
        self.w2, self.b2, self.w3 = raw(32, 32), raw(32), raw(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.w1 + self.b1) * self.scale
        x = torch.tanh(x.matmul(self.w2) + self.b2)
        return x @ self.w3


@stranger(plastic=0.66, x=VECTOR)
class TransposedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = raw(32, 12), raw(32, 32), raw(4, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(x @ self.w1.t()) @ self.w2.T) @ self.w3.transpose(0, 1)


@stranger(plastic=0.67, x=VECTOR)
class ColumnVectors(nn.Module):
    """As in a text book: the weight stands on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1, self.w2, self.w3 = raw(32, 12), raw(32, 1), raw(32, 32), raw(4, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.w1 @ x.t() + self.b1)
        return (self.w3 @ torch.relu(self.w2 @ x)).t()


@stranger(plastic=0.64, x=SEQUENCE)
class EinsumMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = raw(12, 4, 8), raw(4, 8, 16), raw(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("btd,dhe->bthe", x, self.up).relu()
        return torch.einsum("btf,fo->bo", torch.einsum("bthe,hef->btf", heads, self.down).relu(), self.out)


@stranger(plastic=0.84, a=VECTOR, b=normal(BATCH, 8))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 16), nn.Linear(8, 16)
        self.bilinear, self.head = nn.Bilinear(16, 16, 16), nn.Linear(16, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.bilinear(torch.relu(self.left(a)), torch.relu(self.right(b)))))


@stranger(plastic=0.81, x=VECTOR)
class TrilinearForm(nn.Module):
    """Three operands in one Einstein sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(16, 4)
        self.core = raw(8, 8, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bi,ijk,bj->bk", self.first(x).relu(), self.core, self.second(x).relu()).tanh())


@stranger(plastic=0.70, x=VECTOR)
class LowRankBilinear(nn.Module):
    """An outer product of two factors, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(12, 8), nn.Linear(12, 8), mlp(64, 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.first(x)), torch.tanh(self.second(x))
        return self.out((a[:, :, None] * b[:, None, :]).flatten(1))


# Attention.


@stranger(plastic=0.72, x=SEQUENCE)
class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 32), nn.Linear(32, 4)
        self.attention, self.norm = nn.MultiheadAttention(32, 4, batch_first=True), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


@stranger(plastic=0.47, x=normal(BATCH, 2, 12), keys=normal(5, 2, 10), values=normal(5, 2, 14))
class CrossAttention(nn.Module):
    """Sequence first, with keys and values of widths of their own; the attention weights are an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        self.attention = nn.MultiheadAttention(16, 2, kdim=10, vdim=14)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        attended, weights = self.attention(self.embed(x), keys, values)
        return self.head(attended.relu()), weights


@stranger(plastic=0.72, x=SEQUENCE, padding=mask(BATCH, 6))
class PaddedTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.encoder(self.embed(x), src_key_padding_mask=~padding)
        counts = padding.sum(1, keepdim=True)
        return self.head((x * padding[..., None]).sum(1) / counts)


@stranger(plastic=0.71, source=WORDS, target=WORDS)
class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        decoded = self.transformer(self.embedding(source), self.embedding(target), tgt_mask=causal, tgt_is_causal=True)
        return self.head(decoded)


@stranger(plastic=0.72, x=SEQUENCE)
class AttentionByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(12, 32), nn.Linear(32, 96, bias=False)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 4, width // 4).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // 4)
        causal = torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), 1)
        weights = scores.masked_fill(causal, float("-inf")).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return self.head(x[:, -1])


@stranger(plastic=0.57, x=SEQUENCE)
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(12, 16)
        self.out = mlp(16, 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        memory = torch.einsum("btd,bte->bde", k, v)
        normalizer = torch.einsum("btd,bd->bt", q, k.sum(1))
        return self.out((torch.einsum("btd,bde->bte", q, memory) / normalizer[..., None]).mean(1))


@stranger(plastic=0.68, x=SEQUENCE)
class RotaryAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.v, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        angles = torch.outer(torch.arange(6.0), 10000 ** (-torch.arange(0, 8, 2) / 8))
        self.register_buffer("cosine", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sine", torch.cat([angles, angles], -1).sin())

    def rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cosine + torch.cat([-second, first], -1) * self.sine

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return self.head(x + attended.transpose(1, 2).flatten(2))


@stranger(plastic=0.68, x=SEQUENCE)
class ComplexRotaryAttention(nn.Module):
    """The rotation as a product of complex numbers, as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.v, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        angles = torch.outer(torch.arange(6.0), 10000 ** (-torch.arange(0, 16, 2) / 16))
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles))

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.rotation).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        attended = F.scaled_dot_product_attention(self.rotate(self.q(x)), self.rotate(self.k(x)), self.v(x))
        return self.head(x + attended)


@stranger(plastic=0.69, x=SEQUENCE)
class AlibiAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(12, 16), nn.Linear(16, 48)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        distance = (torch.arange(6)[None, :] - torch.arange(6)[:, None]).abs()
        self.register_buffer("bias", -distance * torch.tensor([0.5, 0.25])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / 8**0.5 + self.bias).softmax(-1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).flatten(2)))


@stranger(plastic=0.7, x=SEQUENCE)
class LearnedQueries(nn.Module):
    """As DETR: queries that are parameters attend to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.queries = nn.Linear(12, 16), raw(1, 5, 16)
        self.attention, self.mlp = nn.MultiheadAttention(16, 2, batch_first=True), mlp(16, 32, 16)
        self.classes, self.boxes = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, queries = self.embed(x), self.queries.expand(x.shape[0], -1, -1)
        found = self.mlp(queries + self.attention(queries, x, x)[0])
        return {"classes": self.classes(found), "boxes": self.boxes(found).sigmoid()}


@stranger(plastic=0.74, x=SEQUENCE)
class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents, self.embed = raw(4, 16), nn.Linear(12, 16)
        self.norm, self.cross = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.self_attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x, latents = self.embed(x), self.latents.unsqueeze(0).repeat(x.shape[0], 1, 1)
        for _ in range(2):  # the same weights twice
            latents = latents + self.cross(self.norm(latents), x, x, need_weights=False)[0]
            latents = self.self_attention(latents)
        return self.head(latents.mean(1))


@stranger(plastic=0.72, x=SEQUENCE)
class SlotAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.slots = nn.Linear(12, 16), nn.LayerNorm(16), raw(3, 16)
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.update, self.mlp, self.head = nn.GRUCell(16, 16), mlp(16, 32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        k, v = self.k(x), self.v(x)
        slots = self.slots.expand(x.shape[0], -1, -1)
        for _ in range(2):
            attention = (k @ self.q(slots).transpose(1, 2)).softmax(-1) + 1e-6
            weights = attention / attention.sum(1, keepdim=True)
            updates = weights.transpose(1, 2) @ v
            slots = self.update(updates.reshape(-1, 16), slots.reshape(-1, 16)).reshape(slots.shape)
            slots = slots + self.mlp(slots)
        return self.head(slots)


@stranger(plastic=0.71, x=SEQUENCE)
class TokenMixer(nn.Module):
    """Linear layers over positions: their weights serve all features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 32), nn.LayerNorm(32)
        self.tokens, self.channels, self.head = mlp(6, 8, 6), mlp(32, 64, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


@stranger(plastic=0.62, words=WORDS)
class SinusoidalPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 16), mlp(16, 32, 4)
        angles = torch.arange(6)[:, None] * 10000 ** (-torch.arange(0, 16, 2) / 16)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.embedding(words) * math.sqrt(16) + self.positions[: words.shape[1]])


@stranger(plastic=0.64, x=WORDS)
class RelativePositionBias(nn.Module):
    """As T5: a bias a head and distance, looked up in buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.bias = nn.Embedding(30, 16), nn.Linear(16, 48), nn.Embedding(11, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        distance = torch.arange(length)[None, :] - torch.arange(length)[:, None] + 5
        bias = self.bias(distance.clamp(0, 10)).permute(2, 0, 1).unsqueeze(0)
        x = self.embedding(x)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).split(16, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.head(x + attended.transpose(1, 2).flatten(2))


# Recurrence.


@stranger(plastic=0.72, x=WORDS)
class BidirectionalLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embedding(x))
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1))


@stranger(plastic=0.65, x=SEQUENCE)
class ProjectedLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 24, num_layers=2, proj_size=8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@stranger(plastic=0.68, x=normal(5, 3, 12), hidden=normal(2, 3, 16), cell=normal(2, 3, 16))
class StatefulLSTM(nn.Module):
    """Sequence first; the states come from outside and are handed back."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 16, num_layers=2), nn.Linear(16, 4)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = self.lstm(x, (hidden, cell))
        return self.head(output), state


@stranger(plastic=0.63, x=normal(5, 3, 12))
class BidirectionalGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(12, 16, bidirectional=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.gru(x)
        forward, backward = output.view(*output.shape[:2], 2, 16).unbind(2)
        return self.head(forward + backward).mean(0)


@stranger(plastic=0.71, x=SEQUENCE)
class CellsInALoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.lstm, self.head = nn.RNNCell(12, 16), nn.LSTMCell(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(x.shape[0], 16)
        h, c = x.new_zeros(x.shape[0], 16), x.new_zeros(x.shape[0], 16)
        outputs = []
        for step in range(x.shape[1]):
            hidden = self.rnn(x[:, step], hidden)
            h, c = self.lstm(hidden, (h, c))
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1)


@stranger(plastic=0.63, x=SEQUENCE)
class GatesByHand(nn.Module):
    """An LSTM cell out of one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(12 + 16, 64), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 16)
        for t in range(x.size(1)):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


@stranger(plastic=0.63, x=SEQUENCE)
class StateSpace(nn.Module):
    """A diagonal linear recurrence with an input-dependent step, as Mamba's, in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.step, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.log_a, self.skip, self.head = raw(16, 4), raw(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        u = F.silu(self.inner(x))
        delta, a = F.softplus(self.step(u)), -torch.exp(self.log_a)
        b, c = self.b(u), self.c(u)
        state, outputs = u.new_zeros(u.shape[0], 16, 4), []
        for t in range(u.shape[1]):
            decay = torch.exp(delta[:, t, :, None] * a)
            state = decay * state + (delta[:, t] * u[:, t])[..., None] * b[:, t, None, :]
            outputs.append((state * c[:, t, None, :]).sum(-1) + self.skip * u[:, t])
        return self.head(torch.stack(outputs, 1))


@stranger(plastic=0.62, x=VECTOR)
class EulerSteps(nn.Module):
    """A neural ordinary differential equation: one module, called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.field, self.head = nn.Linear(12, 16), nn.Linear(17, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for step in range(3):
            time = torch.full_like(x[:, :1], step / 3)
            x = x + 0.3 * torch.tanh(self.field(torch.cat([x, time], 1)))
        return self.head(x)


# Several inputs and outputs, shared parts, state.


@stranger(plastic=0.58, image=IMAGE, words=WORDS)
class TwoTowers(nn.Module):
    """As CLIP: the output is the similarity of all pairs, scaled by a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), nn.EmbeddingBag(30, 16)
        self.project_image, self.project_words = nn.Linear(16, 16), nn.Linear(16, 16)
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        one = F.normalize(self.project_image(self.image(image).mean((2, 3))), dim=-1)
        other = F.normalize(self.project_words(self.words(words)), dim=-1)
        return self.logit_scale.exp() * one @ other.t()


@stranger(plastic=0.69, batch={"numbers": VECTOR, "category": indices(30, BATCH)})
class Dictionaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.category = nn.Linear(12, 16), nn.Embedding(30, 8)
        self.trunk = mlp(24, 32, 32)
        self.heads = nn.ModuleDict({"price": nn.Linear(32, 1), "kind": nn.Linear(32, 4)})

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        joined = torch.cat([self.numbers(batch["numbers"]), self.category(batch["category"])], dim=-1)
        features = torch.relu(self.trunk(torch.relu(joined)))
        return {name: head(features) for name, head in self.heads.items()}


@stranger(plastic=0.70, first=IMAGE, second=IMAGE)
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 16)
        )
        self.head = nn.Linear(16, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(torch.abs(self.encoder(first) - self.encoder(second)))


@stranger(plastic=0.47, x=VECTOR)
class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(12, 16), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sigmoid(self.encoder(x)), self.encoder.weight.t(), self.bias)


@stranger(plastic=0.63, words=WORDS)
class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(30, 16, padding_idx=0), nn.GRU(16, 16, batch_first=True)
        self.decoder = nn.Linear(16, 30, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.gru(self.embedding(words))[0])


@stranger(plastic=0.50, x=IMAGE, y=indices(4, BATCH))
class LossInside(nn.Module):
    """Returns its loss beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU()), nn.Linear(16, 4)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.layers(x))
        return {"loss": F.cross_entropy(logits, y, label_smoothing=0.1), "logits": logits}


@stranger(plastic=0.67, x=VECTOR)
class RunningMean(nn.Module):
    """A buffer that forward changes while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), mlp(32, 32, 4)
        self.register_buffer("mean", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.second(x - self.mean)


@stranger(plastic=0.50, x=IMAGE)
class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(256, 8), nn.Linear(256, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 192), nn.Unflatten(1, (3, 8, 8)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.encoder(x)
        mean, log_variance = self.mean(code), self.log_variance(code)
        latent = mean + torch.exp(0.5 * log_variance) * 0.1
        return self.decoder(latent), mean, log_variance


# Weights that are computed before they are used.


@stranger(plastic=0.70, x=IMAGE)
class OldWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.weight_norm(nn.Conv2d(3, 16, 3))
        self.second = torch.nn.utils.weight_norm(nn.Conv2d(16, 16, 3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.elu(self.second(F.elu(self.first(x)))).mean((2, 3)))


@stranger(plastic=0.66, x=VECTOR)
class NewWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            parametrizations.weight_norm(nn.Linear(12, 32)),
            nn.ReLU(),
            parametrizations.weight_norm(nn.Linear(32, 32)),
            nn.ReLU(),
            nn.Linear(32, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@stranger(plastic=0.70, x=IMAGE)
class OldSpectralNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.spectral_norm(nn.Conv2d(3, 16, 3))
        self.second, self.head = torch.nn.utils.spectral_norm(nn.Conv2d(16, 16, 3)), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2).mean((2, 3)))


@stranger(plastic=0.63, x=VECTOR)
class NewSpectralNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (parametrizations.spectral_norm(nn.Linear(n, 16)) for n in (12, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


@stranger(x=VECTOR)
class Orthogonal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(12, 16), nn.Linear(16, 4)
        self.rotation = parametrizations.orthogonal(nn.Linear(16, 16), orthogonal_map="cayley")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.rotation(torch.relu(self.first(x)))))


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@stranger(plastic=0.73, x=VECTOR)
class SymmetricWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        parametrize.register_parametrization(self.second, "weight", _Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class _StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@stranger(plastic=0.70, x=IMAGE)
class WeightStandardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = _StandardisedConv(3, 16, 3), nn.GroupNorm(4, 16)
        self.second, self.head = _StandardisedConv(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3)))


class _Reparameterised(nn.Module):
    """Three kernels of different size, summed into one."""

    def __init__(self, read: int, written: int) -> None:
        super().__init__()
        self.square, self.point = raw(written, read, 3, 3), raw(written, read, 1, 1)
        self.scale, self.bias = nn.Parameter(torch.ones(written, 1, 1, 1)), raw(written)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scale * (self.square + F.pad(self.point, [1, 1, 1, 1])), self.bias, padding=1)


@stranger(plastic=0.70, x=IMAGE)
class Reparameterised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = _Reparameterised(3, 16), _Reparameterised(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


@stranger(plastic=0.64, x=VECTOR)
class CosineClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.weight, self.scale = mlp(12, 32, 16), raw(4, 16), nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(self.features(x), dim=1), F.normalize(self.weight, dim=1))


class _LoRA(nn.Module):
    def __init__(self, read: int, written: int) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(read, written), raw(4, read), raw(written, 4)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * (x @ self.a.t() @ self.b.t())


@stranger(plastic=0.68, x=VECTOR)
class LowRankAdaptation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = _LoRA(12, 32), _LoRA(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


@stranger(plastic=0.50, x=VECTOR)
class LowRankWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.u, self.v, self.head = nn.Linear(12, 32), raw(32, 4), raw(4, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(F.linear(torch.relu(self.first(x)), self.u @ self.v)))


@stranger(plastic=0.69, x=VECTOR, condition=normal(BATCH, 5))
class HyperNetwork(nn.Module):
    """The weight of one layer is computed from another input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.generator = nn.Linear(12, 8), mlp(5, 16, 64)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        weight = self.generator(condition).view(-1, 8, 8)
        return self.head(torch.bmm(weight, torch.relu(self.embed(x)).unsqueeze(2)).squeeze(2).tanh())


@stranger(plastic=0.64, x=IMAGE)
class ConditionalConvolution(nn.Module):
    """A kernel for each example, mixed from experts: a grouped convolution over batch and channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.routing = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.experts, self.head = raw(3, 8, 8, 3, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        batch, channels, height, width = x.shape
        routing = torch.sigmoid(self.routing(x.mean((2, 3))))
        kernels = torch.einsum("be,eoihw->boihw", routing, self.experts).flatten(0, 1)
        x = F.conv2d(x.reshape(1, batch * channels, height, width), kernels, padding=1, groups=batch)
        return self.head(x.view(batch, channels, height, width).relu().mean((2, 3)))


@stranger(plastic=0.72, x=VECTOR)
class MixtureOfExperts(nn.Module):
    """Every expert sees everything; a gate weighs what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(12, 16), nn.Linear(16, 3)
        self.experts, self.head = nn.ModuleList(mlp(16, 32, 16) for _ in range(3)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        gate = self.gate(x).softmax(dim=-1)
        answers = torch.stack([expert(x) for expert in self.experts], dim=1)
        return self.head((gate.unsqueeze(-1) * answers).sum(dim=1))


@stranger(plastic=0.73, x=VECTOR)
class SparseMixture(nn.Module):
    """The two best experts of each example, out of stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate, self.head = nn.Linear(12, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 4)
        self.up, self.down = raw(4, 16, 32), raw(4, 32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        weights, chosen = self.gate(x).topk(2, dim=-1)
        mixing = torch.zeros_like(self.gate(x)).scatter(-1, chosen, weights.softmax(-1))
        hidden = torch.einsum("bd,edf->bef", x, self.up).relu()
        return self.head(torch.einsum("be,bef,efd->bd", mixing, hidden, self.down))


# Convolutional networks.


class _Block(nn.Sequential):
    def __init__(self, read: int, written: int) -> None:
        super().__init__(nn.Conv2d(read, written, 3, padding=1), nn.BatchNorm2d(written), nn.ReLU(inplace=True))


@stranger(plastic=0.74, x=IMAGE)
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _Block(3, 8), _Block(8, 16), _Block(16, 16)
        self.up2, self.merge2 = nn.ConvTranspose2d(16, 16, 2, stride=2), _Block(32, 8)
        self.up1, self.merge1 = nn.Upsample(scale_factor=2, mode="bilinear"), _Block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.up2(self.middle(F.max_pool2d(two, 2)))
        x = self.merge2(torch.cat([two, x], dim=1))
        return self.head(self.merge1(torch.cat([one, self.up1(x)], dim=1)))


@stranger(plastic=0.70, noise=normal(BATCH, 12))
class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(12, 16, 2),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise[:, :, None, None])


@stranger(plastic=0.60, noise=VECTOR)
class ImagesFromVectors(nn.Module):
    """A linear layer, viewed as an image, then upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(12, 16 * 4 * 4), nn.BatchNorm2d(16)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.2))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        x = F.relu(self.norm(self.project(noise).view(-1, 16, 4, 4)))
        return torch.tanh(self.head(self.up(x)))


@stranger(plastic=0.57, x=IMAGE)
class ChannelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1, groups=4)
        self.depthwise, self.second = nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.stem(x)))
        batch, channels, height, width = x.size()
        x = x.view(batch, 4, channels // 4, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.head(torch.relu(self.second(self.depthwise(x))).mean([2, 3]))


@stranger(plastic=0.72, x=IMAGE)
class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.mix, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(F.pixel_shuffle(self.up(torch.relu(self.stem(x))), 2))))


@stranger(plastic=0.67, x=IMAGE)
class SubpixelByHand(nn.Module):
    """Space to depth, by view and permute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(32, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)
        return self.head(torch.relu(self.mix(x)).amax((2, 3)))


@stranger(plastic=0.58, x=IMAGE)
class ChannelSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.mix(torch.softmax(self.stem(x), dim=1))).mean((2, 3)))


@stranger(plastic=0.62, x=IMAGE)
class SigmoidGates(nn.Module):
    """Attention over channels and over space, as in CBAM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 16, 3, padding=1), mlp(16, 8, 16)
        self.space, self.mix, self.head = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        channel = self.squeeze(x.mean((2, 3))) + self.squeeze(x.amax((2, 3)))
        x = x * torch.sigmoid(channel)[:, :, None, None]
        space = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        x = x * torch.sigmoid(self.space(space))
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


@stranger(plastic=0.69, x=IMAGE, condition=normal(BATCH, 5))
class FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.film = nn.Conv2d(3, 16, 3), nn.Linear(5, 32)
        self.mix, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gamma, beta = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        x = torch.relu((1 + gamma) * self.stem(x) + beta)
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


@stranger(plastic=0.72, x=IMAGE)
class DeformableConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offset = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 18, 3, padding=1)
        self.weight, self.bias, self.head = raw(16, 16, 3, 3), raw(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = deform_conv2d(x, self.offset(x), self.weight, self.bias, padding=1)
        return self.head(torch.relu(x).mean((2, 3)))


@stranger(plastic=0.71, x=IMAGE)
class NormsOfAllKinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1)
        self.group, self.instance = nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True)
        self.local, self.head = nn.LocalResponseNorm(3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.instance(self.first(x)))
        x = F.relu(self.group(self.second(x)))
        return self.head(self.local(F.relu(self.third(x))).mean((2, 3)))


@stranger(plastic=0.70, x=IMAGE)
class ChannelsLastNorm(nn.Module):
    """As ConvNeXt: layer norm over channels, there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 2, 2), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.mlp, self.gamma = nn.LayerNorm(16), mlp(16, 64, 16), nn.Parameter(torch.full((16,), 1e-6))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.gamma * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


@stranger(plastic=0.67, x=IMAGE)
class ParametricRectifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.AdaptiveAvgPool2d(2), nn.Conv2d(16, 16, 2), nn.PReLU(), nn.Flatten()
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


@stranger(plastic=0.70, x=IMAGE)
class UnfoldFold(nn.Module):
    """A linear layer over patches, folded back into an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patches, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(32, 32), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(torch.relu(self.stem(x)), kernel_size=2, stride=2)
        patches = torch.relu(self.patches(patches.transpose(1, 2))).transpose(1, 2)
        return self.head(F.fold(patches, (8, 8), kernel_size=2, stride=2))


@stranger(plastic=0.69, x=IMAGE)
class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.pose, self.stem = nn.Linear(8, 6), nn.Conv2d(3, 16, 3, padding=1)
        self.mix, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.pose(self.locate(x)).view(-1, 2, 3)
        features = torch.relu(self.stem(x))
        grid = F.affine_grid(theta, list(features.shape), align_corners=False)
        warped = F.grid_sample(features, grid, align_corners=False)
        return self.head(torch.relu(self.mix(warped)).mean((2, 3)))


@stranger(plastic=0.53, x=IMAGE)
class FourierMixing(nn.Module):
    """As FNet or a global filter: learned filters in the frequency domain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 4)
        self.filter = nn.Parameter(torch.randn(16, 8, 5, 2) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.stem(x), norm="ortho") * torch.view_as_complex(self.filter)
        x = torch.fft.irfft2(spectrum, s=(8, 8), norm="ortho")
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


class SpectralConvolution(nn.Module):
    """The low frequencies times complex weights; the others stay zero."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        shape = channels, channels, modes, modes
        self.low = nn.Parameter(torch.randn(shape, dtype=torch.cfloat) / channels)
        self.high = nn.Parameter(torch.randn(shape, dtype=torch.cfloat) / channels)

    def forward(self, x: Tensor) -> Tensor:
        m, spectrum = self.modes, torch.fft.rfft2(x)
        mixed = torch.zeros_like(spectrum)
        mixed[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.low)
        mixed[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.high)
        return torch.fft.irfft2(mixed, s=x.shape[-2:])


@stranger(plastic=0.74, x=IMAGE)
class FourierNeuralOperator(nn.Module):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, channels, 1)
        self.spectral = nn.ModuleList(SpectralConvolution(channels, 3) for _ in range(2))
        self.pointwise = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.project = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for spectral, pointwise in zip(self.spectral, self.pointwise, strict=True):
            x = F.gelu(spectral(x) + pointwise(x))
        return self.project(x)


@stranger(plastic=0.57, x=normal(BATCH, 2, 32))
class LongConvolution(nn.Module):
    """A convolution as long as its input, by fast Fourier transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel = nn.Conv1d(2, 16, 1), nn.Parameter(torch.randn(16, 32) * 0.1)
        self.mix, self.head = nn.Conv1d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        product = torch.fft.rfft(x, n=64) * torch.fft.rfft(self.kernel, n=64)
        return self.head(torch.relu(self.mix(torch.fft.irfft(product, n=64)[..., :32])).mean(-1))


@stranger(plastic=0.69, x=normal(BATCH, 2, 24))
class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 16, 1)
        self.filters = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(3))
        self.residuals = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.head = nn.Conv1d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for i, (layer, residual, skip) in enumerate(zip(self.filters, self.residuals, self.skips, strict=True)):
            filtered, gate = layer(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            hidden = torch.tanh(filtered) * torch.sigmoid(gate)
            x, total = x + residual(hidden), total + skip(hidden)
        return self.head(torch.relu(total))


@stranger(plastic=0.73, x=normal(BATCH, 1, 4, 6, 6))
class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 16, 3)
        self.norm, self.head = nn.BatchNorm3d(8), nn.Linear(16 * 2 * 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool3d(F.relu(self.norm(self.first(x))), (1, 1, 1))
        return self.head(F.adaptive_max_pool3d(F.relu(self.second(x)), (1, 2, 2)).flatten(1))


# Graphs and sets.


@stranger(plastic=0.63, x=normal(BATCH, 7, 12), adjacency=normal(BATCH, 7, 7))
class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = torch.softmax(adjacency, dim=-1)
        x = torch.relu(adjacency @ self.first(x))
        return self.head(torch.relu(torch.bmm(adjacency, self.second(x))).sum(1))


@stranger(plastic=0.71, x=normal(9, 12), edges=indices(9, 2, 20))
class MessagePassing(nn.Module):
    """One graph, whose messages are summed with index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.message, self.update = nn.Linear(12, 16), nn.Linear(32, 16), nn.GRUCell(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x, (source, target) = torch.relu(self.embed(x)), edges
        for _ in range(2):
            messages = torch.relu(self.message(torch.cat([x[source], x[target]], dim=-1)))
            x = self.update(torch.zeros_like(x).index_add(0, target, messages), x)
        return self.head(x)


@stranger(plastic=0.62, x=normal(9, 12), edges=indices(9, 2, 20))
class GraphAttention(nn.Module):
    """Softmax over the neighbours, with scatter operations."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.source, self.target = nn.Linear(12, 16), raw(16), raw(16)
        self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x, (source, target) = self.linear(x), edges
        scores = F.leaky_relu((x * self.source).sum(-1)[source] + (x * self.target).sum(-1)[target], 0.2)
        weights = scores.exp()
        total = torch.zeros(x.shape[0]).scatter_add(0, target, weights)
        weights = weights / (total[target] + 1e-6)
        gathered = torch.zeros_like(x).scatter_add_(0, target[:, None].expand(-1, 16), weights[:, None] * x[source])
        return self.head(torch.relu(self.second(torch.relu(gathered))))


@stranger(plastic=0.67, x=normal(9, 12), edges=indices(9, 2, 20))
class MaximumAggregation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(12, 16), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        index = edges[1].unsqueeze(-1).expand(-1, 16)
        largest = torch.zeros_like(x).scatter_reduce(0, index, x[edges[0]], reduce="amax", include_self=True)
        return self.head(torch.relu(self.mix(torch.cat([x, largest], 1))))


@stranger(plastic=0.73, points=normal(BATCH, 10, 3))
class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transform, self.points = mlp(3, 16, 9), mlp(3, 16, 32)
        self.norm, self.segment, self.head = nn.BatchNorm1d(32), mlp(64, 32, 2), nn.Linear(32, 4)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        rotation = self.transform(points).amax(1).view(-1, 3, 3) + torch.eye(3)
        features = torch.relu(self.norm(self.points(points @ rotation).transpose(1, 2)))
        everywhere = features.max(dim=-1).values
        joined = torch.cat([features, everywhere.unsqueeze(-1).repeat(1, 1, points.shape[1])], dim=1)
        return self.head(everywhere), self.segment(joined.transpose(1, 2))


@stranger(plastic=0.60, x=SEQUENCE, valid=mask(BATCH, 6))
class MaskedPooling(nn.Module):
    """Mean and maximum over what is valid; the rest is minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(12, 16), mlp(32, 32, 4)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        mean = (x * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        largest = x.masked_fill(~valid.unsqueeze(-1), float("-inf")).max(dim=1).values
        return self.out(torch.cat([mean, largest], dim=-1))


@stranger(plastic=0.67, x=SEQUENCE, valid=mask(BATCH, 6))
class AttentionPooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.score, self.out = nn.Linear(12, 16), mlp(16, 8, 1), mlp(16, 32, 4)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        scores = self.score(x).squeeze(-1).masked_fill(~valid, -1e9)
        return self.out(torch.einsum("bt,btd->bd", scores.softmax(-1), x))


@stranger(plastic=0.62, words=WORDS, weights=normal(BATCH, 6))
class WeightedBags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.summed, self.mean = nn.EmbeddingBag(30, 16, mode="sum"), nn.EmbeddingBag(30, 16, mode="max")
        self.out = mlp(32, 32, 4)

    def forward(self, words: Tensor, weights: Tensor) -> Tensor:
        summed = self.summed(words, per_sample_weights=weights)
        return self.out(torch.cat([summed, self.mean(words)], dim=1))


# Layers with arithmetics of their own.


@stranger(x=SEQUENCE)
class VectorQuantiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codebook, self.decoder = mlp(12, 16, 8), nn.Embedding(10, 8), mlp(8, 16, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        flat = code.reshape(-1, 8)
        weight = self.codebook.weight
        distance = (flat**2).sum(1, keepdim=True) + (weight**2).sum(1) - 2 * flat @ weight.t()
        nearest = self.codebook(distance.argmin(1)).view_as(code)
        loss = F.mse_loss(nearest, code.detach()) + 0.25 * F.mse_loss(nearest.detach(), code)
        return self.decoder(code + (nearest - code).detach()), loss


@stranger(plastic=0.50, x=VECTOR)
class Capsules(nn.Module):
    """Routing by agreement between two layers of capsules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weight = nn.Linear(12, 24), nn.Parameter(torch.randn(1, 6, 3, 8, 4) * 0.3)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        norm = (x**2).sum(-1, keepdim=True)
        return norm / (1 + norm) * x / torch.sqrt(norm + 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        capsules = self.squash(self.embed(x).view(-1, 6, 4))
        votes = (self.weight @ capsules[:, :, None, :, None]).squeeze(-1)
        logits = torch.zeros_like(votes[..., :1])
        for _ in range(2):
            outputs = self.squash((logits.softmax(dim=2) * votes).sum(dim=1, keepdim=True))
            logits = logits + (votes * outputs).sum(-1, keepdim=True)
        return outputs.squeeze(1).norm(dim=-1)


class _Splines(nn.Module):
    """A learned function, a sum of bumps, on every edge between two layers."""

    def __init__(self, read: int, written: int) -> None:
        super().__init__()
        self.base, self.coefficients = raw(written, read), nn.Parameter(torch.randn(written, read, 5) * 0.1)
        self.register_buffer("grid", torch.linspace(-2, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x.unsqueeze(-1) - self.grid) ** 2))
        return F.linear(F.silu(x), self.base) + torch.einsum("big,oig->bo", bumps, self.coefficients)


@stranger(plastic=0.64, x=VECTOR)
class KolmogorovArnold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = _Splines(12, 16), _Splines(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


@stranger(plastic=0.63, x=VECTOR)
class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 48), nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).view(-1, 16, 3).max(dim=2)[0]
        return self.head(torch.stack(self.second(x).chunk(3, 1)).amax(0))


@stranger(plastic=0.67, x=VECTOR)
class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.transform, self.carry = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        gate = torch.sigmoid(self.carry(x))
        return self.head(gate * torch.relu(self.transform(x)) + (1 - gate) * x)


@stranger(plastic=0.59, position=normal(BATCH, 2))
class FourierFeatures(nn.Module):
    """As NeRF: a coordinate in, a colour out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(6))
        self.first, self.second, self.head = nn.Linear(24, 32), nn.Linear(32 + 24, 32), nn.Linear(32, 3)

    def forward(self, position: Tensor) -> Tensor:
        angles = (position[..., None] * self.frequencies * math.pi).flatten(-2)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=-1)
        x = torch.relu(self.first(encoded))
        return torch.sigmoid(self.head(torch.relu(self.second(torch.cat([x, encoded], -1)))))


@stranger(plastic=0.72, position=normal(BATCH, 2))
class SineNetwork(nn.Module):
    """As SIREN."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32)]), nn.Linear(32, 3)

    def forward(self, position: Tensor) -> Tensor:
        x = position
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


@stranger(plastic=0.48, x=VECTOR)
class RadialBasis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.centres, self.log_width = nn.Linear(12, 16), raw(20, 16), nn.Parameter(torch.zeros(20))
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        distance = (torch.tanh(self.embed(x)).unsqueeze(1) - self.centres).pow(2).sum(-1)
        return self.head(torch.exp(-distance * self.log_width.exp()))


@stranger(plastic=0.62, x=VECTOR)
class CrossFeatures(nn.Module):
    """As a deep and cross network: products with the input, beside a deep branch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias, self.deep, self.head = raw(12, 1), raw(12), mlp(12, 32, 16), nn.Linear(28, 4)

    def forward(self, x: Tensor) -> Tensor:
        crossed = x * (x @ self.weight) + self.bias + x
        return self.head(torch.cat([crossed, torch.relu(self.deep(x))], dim=1))


@stranger(plastic=0.65, fields=indices(30, BATCH, 5))
class FactorisationMachine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.factors, self.deep = nn.Embedding(30, 1), nn.Embedding(30, 8), mlp(40, 16, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, fields: Tensor) -> Tensor:
        v = self.factors(fields)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.linear(fields).sum(1) + pairs + self.deep(v.flatten(1)) + self.bias)


@stranger(plastic=0.50, x=VECTOR)
class MixtureDensity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 32), nn.Tanh())
        self.weights, self.means, self.scales = nn.Linear(32, 3), nn.Linear(32, 6), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(x)
        return self.weights(x).log_softmax(-1), self.means(x).view(-1, 3, 2), self.scales(x).exp()


@stranger(plastic=0.50, x=VECTOR)
class SparseScatter(nn.Module):
    """Keeps the largest activations, and writes them back where they were."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 32), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        values, places = x.topk(8, dim=1)
        sparse = torch.zeros_like(x).scatter_(1, places, values)
        return self.head(torch.relu(self.second(sparse)))


@stranger(plastic=0.63, x=SEQUENCE)
class WrittenInPlace(nn.Module):
    """Fills a tensor of zeros, slice by slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        shifted = torch.zeros_like(x)
        shifted[:, 1:, :8] = x[:, :-1, :8]
        shifted[:, :, 8:] = x[:, :, 8:]
        return self.head(torch.relu(self.mix(shifted)))


# Sizes that only the data tells.


class Selecting(nn.Module):
    """Two layers and a head, between which positions are selected."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))

    def decode(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(x)))


KEPT = mask(BATCH, 6)


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class PositionsByMask(Selecting):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.decode(self.encode(x)[keep])


@stranger(plastic=0.67, x=SEQUENCE)
class PositionsByBuffer(Selecting):
    """A mask that the model holds: how many entries it has is unknown all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.arange(6) % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[:, self.keep]).mean(1)


@stranger(plastic=0.50, x=SEQUENCE)
class FeaturesByBuffer(Selecting):
    """Which features the second layer reads is not known, so it reads live ones."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 32)
        self.register_buffer("keep", torch.arange(32) % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[..., self.keep]).mean(1)


@stranger(plastic=0.67, x=SEQUENCE)
class PositionsThatMatter(Selecting):
    """Which positions are selected follows from the features themselves."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        return self.decode(x[x.norm(dim=-1) > 0.5]).mean(0)


@stranger(plastic=0.66, x=SEQUENCE, keep=KEPT)
class PositionsByIndex(Selecting):
    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encode(x)
        rows, columns = torch.nonzero(keep, as_tuple=True)
        return self.decode(x[rows, columns]), self.decode(x.flatten(0, 1)[torch.where(keep.flatten())[0]])


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class TokensDropped(Selecting):
    """A layer sees the tokens that are kept, and writes them back where they were."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.encode(x)
        rest = torch.zeros_like(x)
        rest[keep] = torch.relu(self.second(x[keep]))
        return self.head(rest + x)


@stranger(plastic=0.67, x=SEQUENCE)
class PositionsOverwritten(Selecting):
    """A learned token stands at some positions, as in masked modelling."""

    def __init__(self) -> None:
        super().__init__()
        self.token = raw(32)
        self.register_buffer("hidden", torch.arange(6) % 3 == 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x[:, self.hidden] = self.token
        return self.decode(x)


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class MeanOfSelected(Selecting):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.encode(x)
        chosen, others = x[keep], x[~keep]
        return self.decode(x * torch.cat([chosen, others]).mean(0) + chosen.sum(0) / chosen.shape[0])


@stranger(plastic=0.50, x=SEQUENCE)
class MeanOfPositive(Selecting):
    """Entries of all features in one line: they have no features."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.decode(x) * x[x > 0].mean()


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class AttentionOverSelected(Selecting):
    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.encode(x)[keep].view(-1, 4, 8).transpose(0, 1)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        return self.decode(x.transpose(0, 1).flatten(1))


@stranger(plastic=0.62, words=WORDS)
class DistinctWords(Selecting):
    """Computes each word of the batch once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)

    def forward(self, words: Tensor) -> Tensor:
        distinct, places = torch.unique(words, return_inverse=True)
        return self.head(torch.relu(self.second(self.embed(distinct)))[places])


@stranger(plastic=0.67, x=VECTOR, counts=indices(3, BATCH))
class RepeatedByCounts(Selecting):
    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return self.decode(torch.repeat_interleave(self.encode(x), counts + 1, dim=0))


@stranger(plastic=0.71, x=SEQUENCE)
class RoutedExperts(Selecting):
    """Each expert sees the tokens that choose it, maybe none."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(12, 2)
        self.experts = nn.ModuleList(mlp(32, 32, 32) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        route = self.router(x).softmax(-1)
        x = self.encode(x)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = route.argmax(-1) == number
            mixed[chosen] = expert(x[chosen]) * route[chosen][:, number, None]
        return self.head(torch.relu(mixed))


@stranger(plastic=0.70, images=IMAGE, keep=mask(BATCH))
class ImagesByMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, images: Tensor, keep: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(images))[keep])).mean((2, 3)))


@stranger(plastic=0.67, x=VECTOR)
class RowsOfWeight(Selecting):
    """A layer with some of a weight's rows: how many outputs it has is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = raw(6, 32)
        self.register_buffer("keep", torch.arange(6) % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        return self.decode(x) * F.linear(x, self.weight[self.keep]).mean(-1, keepdim=True)


@stranger(plastic=0.50, x=SEQUENCE, keep=KEPT)
class SelectedAndTurned(Selecting):
    """Mixes positions and features: nothing is known of the result."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.decode(self.encode(x)[keep].reshape(32, -1).t())


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class SelectedInPlace(Selecting):
    """Writes into views of a tensor of unknown size."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.first(x)[keep]
        x[:, :8] *= 2
        x[x.shape[0] // 2 :] *= 0.5
        x[0] = 0
        return self.decode(x)


@stranger(plastic=0.67, x=SEQUENCE, keep=KEPT)
class SelectedInTraining(Selecting):
    """Drops tokens in train mode alone."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.encode(x)
        if self.training:
            x = x[torch.rand(x.shape[:2]) > 0.1]
        else:
            x = torch.cat([x[keep], x[~keep]])
        return self.decode(x)


# Operators that nobody has a rule for.


@torch.library.custom_op("strangers::swish", mutates_args=())
def swish(x: Tensor, beta: float) -> Tensor:
    return x * torch.sigmoid(beta * x)


@swish.register_fake
def _(x: Tensor, beta: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("strangers::scaled", mutates_args=())
def scaled(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight


@scaled.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


def _swish_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.beta = inputs[1]


def _swish_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    gate = torch.sigmoid(ctx.beta * x)
    return gradient * (gate + ctx.beta * x * gate * (1 - gate)), None


def _scaled_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _scaled_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    return gradient * weight, (gradient * x).sum(0)


swish.register_autograd(_swish_backward, setup_context=_swish_context)
scaled.register_autograd(_scaled_backward, setup_context=_scaled_context)


@stranger(plastic=0.63, x=VECTOR)
class MappedOverExamples(nn.Module):
    """Written for one example, and mapped over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.vmap(lambda one: self.second(self.first(one).tanh()).relu())(x))


@stranger(x=VECTOR)
class CustomActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(swish(self.second(swish(self.first(x), 1.5)), 1.5))


@stranger(x=VECTOR)
class CustomLayer(nn.Module):
    """An operator of one's own that takes a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.second, self.head = (
            nn.Linear(12, 16),
            raw(16),
            nn.Linear(16, 16),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(scaled(self.first(x), self.weight))))


@stranger(plastic=0.7, tokens=Indices(20, (BATCH, 6)))
class CausalEncoder(nn.Module):
    """nn.TransformerEncoder looks at the mask's values to find out whether it is causal."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embed(tokens), mask=mask))


@stranger(plastic=0.7, source=normal(BATCH, 6, 4), target=normal(BATCH, 5, 4))
class EncoderDecoder(nn.Module):
    """Queries of one sequence, keys and values of another, of one packed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target, self.head = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 3)
        self.transformer = nn.Transformer(16, 2, 2, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(self.source(source), self.target(target), tgt_mask=mask))


@stranger(plastic=0.5, x=normal(BATCH, 8))
class VariationalAutoencoder(nn.Module):
    """torch.distributions looks at the values that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.statistics = nn.Linear(8, 16), nn.Linear(16, 16)
        self.decode, self.head = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.statistics(torch.relu(self.encode(x))).chunk(2, -1)
        posterior = torch.distributions.Normal(mean, F.softplus(scale) + 0.1)
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        code = posterior.rsample() if self.training else posterior.mean
        divergence = torch.distributions.kl_divergence(posterior, prior).sum(-1)
        return self.head(torch.relu(self.decode(code))), divergence
