"""What cannot be captured as it is: layer drop, submodules that look at values, models that do. Nothing leaks."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import HATModule, hatify
from hatify.errors import CaptureError, CaptureWarning, InputError
from hatify.verification.trials import draw_masks, perturb, scramble


def convert(model: nn.Module, x: Tensor, warning: str) -> HATModule:
    perturb(model)
    return convert_unperturbed(model, x, warning)


def convert_unperturbed(model: nn.Module, x: Tensor, warning: str) -> HATModule:
    with pytest.warns(CaptureWarning, match=warning):
        return hatify(model, num_tasks=2, example_inputs=(x,))


@torch.no_grad()
def check(model: nn.Module, net: HATModule, x: Tensor) -> None:
    """Equality in eval mode, and no forgetting when all that is free is overwritten."""
    model.eval()
    net.eval()
    assert torch.equal(net(x), model(x))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    before = net(x, task_id=0)
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert not torch.equal(net(x), model(x))


class LayerDrop(nn.Module):
    """As transformers' encoders: a layer is left out by chance, in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.training and torch.rand([]) < 0.5:
                continue
            x = F.dropout(x + layer(x).relu(), 0.5, self.training)
        return self.head(x)


def test_layer_drop_is_lost_but_dropout_is_not() -> None:
    model = LayerDrop()
    net = convert(model, torch.randn(2, 8), "can only be captured in eval mode")
    x = torch.randn(4, 8)
    outputs = [net.train()(x) for _ in range(2)]
    assert not torch.equal(*outputs)
    check(model, net, x)


def small_speech_model(**options: object) -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **options,
    )
    return Wav2Vec2ForCTC(config)


def test_layer_drop_of_transformers() -> None:
    model = small_speech_model(layerdrop=0.5, apply_spec_augment=False)
    perturb(model)
    x = torch.randn(3, 400)
    with pytest.warns(CaptureWarning, match=r"wav2vec2\.encoder .* can only be captured in eval mode"):
        net = hatify(model, num_tasks=2, example_inputs={"input_values": x[:2]})
    assert torch.equal(net.eval()(input_values=x).logits, model.eval()(input_values=x).logits)


def draw_mask(x: Tensor) -> Tensor:
    return torch.from_numpy(np.random.rand(*x.shape).astype(np.float32))


class Masks(nn.Module):
    """As transformers' SpecAugment: Python sees the batch size in train mode. Dropout of its own and in a submodule."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.layer(x).relu(), 0.5, self.training)
        return x * self.mask(x) if self.training else x


class Masker(nn.Module):
    """Sees the batch size in both modes, but is called in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return draw_mask(x)


def masked_twice(mask: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), Masks(mask), Masks(mask), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "mask",
    [
        draw_mask,
        Masker(),
        lambda x: x * int(x.shape[0]),
        lambda x: x * len(x),
        lambda x: torch.stack([row.tanh() for row in x]),
        lambda x: sum((x * i for i in range(x.shape[0])), start=x),
    ],
    ids=["numpy", "submodule", "int", "len", "rows", "range"],
)
def test_masks_that_fix_the_batch_are_lost_but_dropout_is_not(mask: Callable[[Tensor], Tensor]) -> None:
    model = masked_twice(mask)
    perturb(model)
    with pytest.warns(CaptureWarning) as warned:
        net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),))
    said = [str(warning.message).partition(":")[0] for warning in warned]
    assert said == [f"{path} (Masks) can only be captured in eval mode" for path in (1, 2)]
    x = torch.randn(5, 4)
    unmasked = masked_twice(torch.ones_like)
    unmasked.load_state_dict(model.state_dict())
    for training in (True, False):
        outputs = []
        for module in (net.train(training), unmasked.train(training)):
            torch.manual_seed(0)
            outputs.append(module(x))
        assert torch.equal(*outputs)
        assert torch.equal(net(x), outputs[0]) is not training
    check(model, net, x)


def test_masks_of_transformers() -> None:
    model = small_speech_model(layerdrop=0.0, apply_spec_augment=True)
    perturb(model)
    x = torch.randn(3, 400)
    with pytest.warns(CaptureWarning, match=r"wav2vec2 \(Wav2Vec2Model\) can only be captured in eval mode"):
        net = hatify(model, num_tasks=2, example_inputs={"input_values": x[:2]})
    assert torch.equal(net.eval()(input_values=x).logits, model.eval()(input_values=x).logits)
    assert not torch.equal(*(net.train()(input_values=x).logits for _ in range(2)))


class FixedByPyTorch(nn.Module):
    """PyTorch's own code needs the number of rows, in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + x.take_along_dim(x.argmax(1, keepdim=True), 1) if self.training else x


class FixedInBothModes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (len(x) if self.training else 2 * len(x))


@pytest.mark.parametrize("fixed", [FixedByPyTorch, FixedInBothModes])
def test_train_mode_is_kept_where_the_batch_stays_fixed_without_it(fixed: type[nn.Module]) -> None:
    class OwnTrainMode(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len(x) if self.training else x

    model = nn.Sequential(nn.Linear(4, 8), OwnTrainMode(), fixed(), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    perturb(model)
    with pytest.warns(CaptureWarning) as warned:
        net = hatify(model, num_tasks=2, example_inputs=(x,))
    assert ["it takes batches of 2 only" in str(warning.message) for warning in warned] == [True]
    for training in (True, False):
        assert torch.equal(net.train(training)(x), model.train(training)(x))


class Chooses(nn.Module):
    """Looks at values, and has parameters, a buffer and a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + len(x)
        x = self.norm(self.linear(x))
        return x.relu() if x.sum() > 0 else x.tanh()


class ThroughNumPy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.from_numpy(np.tanh(x.detach().numpy()).mean(1, keepdims=True))


class SeveralResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x: Tensor, *, scale: float) -> dict[str, object]:
        return {"sum": self.linear(x), "none": None, "pair": (x.flatten() * scale, float(x.max()) > 0)}


class UsesResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.several = SeveralResults()

    def forward(self, x: Tensor) -> Tensor:
        results = self.several(x, scale=2.0)
        return results["sum"] * results["pair"][0].view(x.shape[0], -1).mean(1, keepdim=True)


class AroundIt(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(4, 8), inner, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.inner(x) + self.inner(x * 2))


@pytest.mark.parametrize("inner", [Chooses, ThroughNumPy, UsesResults])
def test_a_submodule_that_cannot_be_captured_is_called_as_it_is(inner: type[nn.Module]) -> None:
    model = AroundIt(inner())
    net = convert(model, torch.randn(2, 4), r"inner[.a-z]* .*cannot be captured .*test_ladder\.py:\d+ in forward")
    assert set(net.state_dict()) >= set(model.state_dict())
    for training in (True, False, True):
        model.train(training)
        net.train(training)
        x = torch.randn(5, 4)
        assert torch.equal(net(x), model(x))
        for name, buffer in model.named_buffers():
            assert torch.equal(net.get_buffer(name), buffer), name
    check(model, net, torch.randn(5, 4))


def test_a_module_in_two_places_can_be_a_leaf() -> None:
    inner = Chooses()
    model = nn.Sequential(nn.Linear(4, 8), inner, nn.Linear(6, 8), inner, nn.Linear(6, 3))
    net = convert(model, torch.randn(2, 4), r"1 \(Chooses\) cannot be captured")
    check(model, net, torch.randn(5, 4))


def test_a_leaf_with_a_forward_of_its_own_and_a_memory_is_left_as_it_was() -> None:
    class Remembers(nn.Module):
        """Its forward was replaced, as libraries do that put hooks around it, and it keeps what it saw."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 6)
            self.forward = self.replaced

        def replaced(self, x: Tensor) -> Tensor:
            self.seen = self.linear(x)
            return self.seen if self.seen.sum() > 1e9 else self.seen * 2

    model = AroundIt(Remembers())
    x = torch.randn(5, 4)
    before = model.eval()(x)
    net = convert_unperturbed(model, torch.randn(2, 4), "inner")
    assert torch.equal(model(x), before)
    assert torch.equal(net.eval()(x), before)


def test_an_opaque_leaf_is_trained_and_copied() -> None:
    model = AroundIt(Chooses())
    net = convert(model, torch.randn(2, 4), "inner")
    x = torch.randn(5, 4)
    gradients = []
    for module in (model.train(), net.train().requires_grad_(False)):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    net.requires_grad_(True)
    own = {name for name in net.blueprint.task_indexed if name.startswith("inner")}
    assert "inner.linear.weight" in {*own, *net.shared_parameters()}
    with net.learn(0, steps=1):
        net(x).sum().backward()
    assert sum(p.grad is not None for name, p in net.named_parameters() if "inner" in name) >= 4
    copied = copy.deepcopy(net.eval())
    assert torch.equal(copied(x, task_id=0), net(x, task_id=0))


def test_batch_norm_with_a_cumulative_average() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.Linear(64, 2))
    net = convert(model, torch.randn(2, 1, 6, 6), "BatchNorm2d")
    for training in (True, True, False):
        x = torch.randn(3, 1, 6, 6)
        assert torch.equal(net.train(training)(x), model.train(training)(x))
        assert torch.equal(net.get_buffer("1.running_mean"), model[1].running_mean)
    check(model, net, x)


def test_a_model_that_looks_at_values_itself_is_refused() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if x.sum() > 0 else x[:, :2]

    with pytest.raises(
        CaptureError, match=r"the model, Deciding, test_ladder\.py:\d+ in forward.*submodule of its own"
    ):
        hatify(Deciding())


def test_a_model_that_differentiates_in_forward_is_not_blamed_on_its_inputs() -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x).tanh().sum(), x, create_graph=True)[0]

    with pytest.raises(CaptureError, match="Forces as one graph"):
        hatify(Forces(), example_inputs=(torch.randn(2, 4),))


def test_wrong_example_inputs_are_not_taken_for_a_model_that_cannot_be_captured() -> None:
    with warnings.catch_warnings(), pytest.raises(InputError, match="example inputs"):
        warnings.simplefilter("error")
        hatify(AroundIt(Chooses()), example_inputs=(torch.randn(2, 5),))


def test_example_inputs_in_containers_are_described_by_their_shapes() -> None:
    class OfAll(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = AroundIt(Chooses())

        def forward(self, tensors: list[Tensor]) -> Tensor:
            return self.inner(torch.cat(tensors))

    with pytest.raises(InputError, match=r"example inputs \[\(2, 5\), \(2, 5\)\]:"):
        hatify(OfAll(), example_inputs=([torch.randn(2, 5), torch.randn(2, 5)],))


class Skipping(nn.Module):
    """Layer drop by a generator that PyTorch knows nothing of."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.first, self.second, self.draw = nn.Linear(3, 8), nn.Linear(8, 8), draw

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return x if self.training and self.draw() < 1 else x + self.second(x)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_layers_that_chance_drops_stay(draw: Callable[[], float]) -> None:
    model, x = nn.Sequential(Skipping(draw), nn.Dropout(0.5), nn.Linear(8, 2)), torch.randn(4, 3)
    with pytest.warns(CaptureWarning, match=r"0 \(Skipping\) can only be captured in eval mode"):
        net = hatify(model, num_tasks=2)
    assert not net.blueprint.unread
    assert torch.equal(net.eval()(x), model.eval()(x))
    net.train()
    assert not torch.equal(net(x), net(x))  # the dropout is as it was


def test_chance_in_eval_mode_is_named() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * random.random()

    with pytest.warns(CaptureWarning, match=r"1 \(Noisy\) draws numbers from Python's or NumPy's generator"):
        hatify(nn.Sequential(nn.Linear(3, 8), Noisy(8, 2)), num_tasks=2)


def test_a_buffer_that_the_first_call_makes() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)
            self.register_buffer("slopes", None, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if self.slopes is None:
                self.slopes = torch.arange(8.0)
            return self.read(self.write(x) + self.slopes)

    model, x = Cached(), torch.randn(4, 3)
    with pytest.raises(CaptureError, match="makes the buffer 'slopes' when it is first called: call the model once"):
        hatify(model, num_tasks=2)
    assert model.slopes is None
    expected = model(x)
    assert torch.equal(hatify(model, num_tasks=2)(x), expected)


class ByKind(nn.Module):
    """A graph's layer that looks at values: of its inputs, the nodes are the batch, the edges are none."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 8, 8))

    def forward(self, x: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        result = x
        for kind in range(2):
            sources, ends = edges[:, kinds == kind]
            if len(sources):
                result = result + torch.zeros_like(x).index_add(0, ends, x[sources]) @ self.weights[kind]
        return result


class OnGraphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.write, self.inner, self.read = nn.Linear(3, 8), ByKind(), nn.Linear(8, 2)

    def forward(self, x: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        return self.read(self.inner(self.write(x).relu(), edges, kinds))


def test_a_layer_of_a_graph_is_a_leaf(capsys: pytest.CaptureFixture[str]) -> None:
    model, edges, kinds = OnGraphs(), torch.tensor([[0, 1, 1, 2, 3], [1, 0, 2, 1, 3]]), torch.tensor([0, 1, 0, 1, 0])
    with pytest.warns(CaptureWarning, match=r"inner \(ByKind\) cannot be captured"):
        net = hatify(model, num_tasks=2, example_inputs=(torch.randn(4, 3), edges, kinds))
    x = torch.randn(6, 3)
    assert torch.equal(net(x, edges, kinds), model(x, edges, kinds))
    assert not capsys.readouterr().err  # PyTorch would print the graph
