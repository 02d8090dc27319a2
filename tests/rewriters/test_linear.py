"""Products with weights, and with other activations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, Sandwich, check, check_between, ideal


class WithWeight(nn.Module):
    """A product with a raw parameter (in, out)."""

    def __init__(self, multiply: Callable[..., Tensor], *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)
        self.bias = nn.Parameter(torch.randn(shape[-1])) if bias else None
        self.multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.weight) if self.bias is None else self.multiply(x, self.weight, self.bias)


SQUARE = WIDTH * WIDTH


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_linear_layers(kind: str, bias: bool) -> None:
    layers = nn.Sequential(nn.Linear(WIDTH, 8, bias=bias), nn.ReLU(), nn.Linear(8, WIDTH, bias=bias))
    check_between(kind, layers, one_sided=24 if bias else 0, two_sided=2 * 8 * WIDTH, gates=0)


def test_a_weight_with_one_output_and_no_dimension_for_it() -> None:
    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x * nn.functional.linear(x, self.weight)[..., None]

    check_between("tokens", Scored(), one_sided=WIDTH, gates=0)


def test_several_batch_dimensions() -> None:
    model = nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))
    check(model, torch.randn(2, 4, 5, 3), at_least=ideal(one_sided=5 * WIDTH, two_sided=SQUARE), gates=0)


@pytest.mark.parametrize(
    ("kind", "multiply"),
    [
        ("vectors", torch.mm),
        ("vectors", torch.matmul),
        ("tokens", torch.matmul),
        ("vectors", lambda x, w: torch.einsum("bc,cd->bd", x, w)),
        ("tokens", lambda x, w: torch.einsum("...c,cd->...d", x, w)),
        ("tokens", lambda x, w: torch.einsum("cd,bnc->bnd", w, x)),
        ("tokens", lambda x, w: torch.einsum("cz,bnc", w, x)),
    ],
    ids=[
        "mm",
        "matmul",
        "matmul of tokens",
        "einsum",
        "einsum with dots",
        "einsum, weight first",
        "implicit",
    ],
)
def test_products_with_a_raw_weight(kind: str, multiply: Callable[..., Tensor]) -> None:
    check_between(kind, WithWeight(multiply, WIDTH, WIDTH), two_sided=SQUARE, gates=0)


def test_addmm() -> None:
    layer = WithWeight(lambda x, w, b: torch.addmm(b, x, w), WIDTH, WIDTH, bias=True)
    check_between("vectors", layer, one_sided=WIDTH, two_sided=SQUARE, gates=0)


def test_addmm_with_factors() -> None:
    layer = WithWeight(lambda x, w, b: torch.addmm(b, x, w, alpha=0.5, beta=2), WIDTH, WIDTH, bias=True)
    check_between("vectors", layer, one_sided=WIDTH, two_sided=SQUARE, gates=0)


def test_a_product_added_to_an_activation_is_live() -> None:
    layer = WithWeight(lambda x, w: torch.addmm(x, x, w), WIDTH, WIDTH)
    check_between("vectors", layer, locked=SQUARE, tight=False)


@pytest.mark.parametrize(
    ("kind", "multiply"),
    [
        ("vectors", lambda x, w: (w @ x.t()).t()),
        ("tokens", lambda x, w: (w @ x.transpose(1, 2)).transpose(1, 2)),
        ("lines", lambda x, w: w @ x),
        ("vectors", lambda x, w: torch.mm(w, x.t()).t()),
    ],
    ids=["matmul", "matmul of tokens", "matmul of lines", "mm"],
)
def test_a_weight_on_the_left_of_columns(kind: str, multiply: Callable[..., Tensor]) -> None:
    check_between(kind, WithWeight(multiply, WIDTH, WIDTH), two_sided=SQUARE, gates=0)


def test_columns_of_an_input() -> None:
    model = nn.Sequential(WithWeight(lambda x, w: (w @ x.t()).t(), WIDTH, 3), nn.ReLU(), nn.Linear(WIDTH, 4))
    check(model, torch.randn(2, 3), at_least=0.5, gates=0)


def test_a_learned_adjacency_is_no_layer() -> None:
    """It mixes positions of each feature, so every task needs it whole."""
    adjacency = WithWeight(lambda x, w: w @ x, 5, 5)
    check_between("tokens", adjacency, locked=25, gates=0)


OTHER_PRODUCTS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "inner": ("tokens", torch.inner),
    "tensordot": ("tokens", lambda x, w: torch.tensordot(x, w, dims=([2], [0]))),
    "tensordot, weight first": ("vectors", lambda x, w: torch.tensordot(w, x, dims=([1], [1])).t()),
    "einsum of an activation twice": ("vectors", lambda x, w: torch.einsum("bi,ij,bi->bj", x, w, x.tanh())),
    "einsum with a mask": ("tokens", lambda x, w: torch.einsum("bn,bnc,cd->bnd", (x[..., 0] > 0).float(), x, w)),
}


@pytest.mark.parametrize(("kind", "multiply"), OTHER_PRODUCTS.values(), ids=OTHER_PRODUCTS)
def test_products_that_are_einstein_sums(kind: str, multiply: Callable[..., Tensor]) -> None:
    check_between(kind, WithWeight(multiply, WIDTH, WIDTH), two_sided=SQUARE)


def test_a_trilinear_form() -> None:
    class Trilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = nn.Parameter(torch.randn(WIDTH, WIDTH, WIDTH) / WIDTH)
            self.other = nn.Linear(WIDTH, WIDTH, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,ijk,bj->bk", x, self.core, self.other(x).tanh())

    # An entry of the core is taken where its output and both inputs are: 7/8 of them stay free.
    around, behind, core = 5 * WIDTH, 2 * SQUARE, WIDTH**3
    share = (around / 2 + behind * 3 / 4 + core * 7 / 8) / (around + behind + core)
    check(Sandwich("vectors", Trilinear()), torch.randn(2, 3), at_least=share - 0.003, gates=0)


def test_an_outer_product_has_the_features_of_a_factor() -> None:
    check_between("vectors", lambda x: x + torch.outer(x.mean(1), x.mean(0)), gates=0)


def test_an_einsum_that_writes_heads() -> None:
    heads = WithWeight(lambda x, w: torch.einsum("bnc,chd->bnhd", x, w).tanh().flatten(2), WIDTH, 4, 4)
    check_between("tokens", heads, two_sided=SQUARE, gates=0)


def test_an_einsum_with_a_weight_for_each_head() -> None:
    heads = WithWeight(lambda x, w: torch.einsum("bnhd,hde->bnhe", x.unflatten(2, (4, 4)), w).flatten(2), 4, 4, 4)
    check_between("tokens", heads, two_sided=4 * 4 * 4, gates=0, slack=0.01)


def test_an_einsum_as_head() -> None:
    model = nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU(), WithWeight(lambda x, w: torch.einsum("bc,cd", x, w), 16, 4))
    assert check(model, torch.randn(2, 3), at_least=0.5).blueprint.heads == ("2",)


EINSTEIN_SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "permutation": lambda x: torch.einsum("bnc->bcn", x).transpose(1, 2),
    "sum over positions": lambda x: torch.einsum("bnc->bc", x)[:, None].expand(-1, 5, -1),
    "entry by entry": lambda x: torch.einsum("bnc,bnc->bnc", x, x.tanh()),
    "attention": lambda x: torch.einsum("bnm,bmc->bnc", torch.einsum("bnc,bmc->bnm", x, x).softmax(-1), x),
    "scaled by a pooled vector": lambda x: torch.einsum("bnc,bc->bnc", x, x.mean(1)),
    "scaled by two": lambda x: torch.einsum("bn,bnc,bm->bnc", x.mean(2), x, x.mean(2)),
}


@pytest.mark.parametrize("function", EINSTEIN_SUMS.values(), ids=EINSTEIN_SUMS)
def test_einstein_sums_of_activations(function: Callable[[Tensor], Tensor]) -> None:
    check_between("tokens", function, gates=0)


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda x: torch.einsum("bc,bc->b", x, x)[:, None].expand(-1, 4), 4),
        (lambda x: torch.einsum("bc->b", x)[:, None].expand(-1, 4), 4),
        (lambda x: torch.einsum("bii->bi", x.view(-1, 4, 4)), 4),
        (lambda x: torch.einsum("bc,bd,be->bcde", x[:, :2], x[:, :2], x[:, :2]).flatten(1), 8),
        (lambda x: (x.view(-1, 4, 4) @ x.view(-1, 4, 4).mT).flatten(1), WIDTH),
    ],
    ids=["scalar product", "sum over features", "diagonal", "three operands", "features in two dimensions"],
)
def test_features_that_end_in_a_sum_are_live_behind_it(function: Callable[[Tensor], Tensor], read: int) -> None:
    check_between("vectors", function, read=read, tight=False)


def test_a_contraction_couples_what_it_multiplies() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(self.query(x), self.key(x).transpose(1, 2)).softmax(-1) @ x

    net = check_between("tokens", Scores(), one_sided=2 * WIDTH, two_sided=2 * SQUARE, gates=0)
    assert "middle.key" in net.registry.groups["middle.query"].members


class LearnedQueries(nn.Module):
    """Pooling by attention: the queries are parameters, and adopt the features of the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(5, WIDTH))
        self.key = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (self.queries @ self.key(x).transpose(1, 2)).softmax(-1) @ x


def test_a_parameter_adopts_the_features_that_it_is_contracted_with() -> None:
    check_between("tokens", LearnedQueries(), one_sided=WIDTH + 5 * WIDTH, two_sided=SQUARE, gates=1)


def test_baddbmm() -> None:
    def attend(x: Tensor) -> Tensor:
        scores = torch.baddbmm(torch.ones(1, 5, 5), x, x.transpose(1, 2), alpha=0.5)
        return torch.bmm(scores.softmax(-1), x)

    check_between("tokens", attend, gates=0)


def test_baddbmm_with_features() -> None:
    check_between("tokens", lambda x: torch.baddbmm(x, torch.ones_like(x[..., :5]), x), tight=False)


def test_matrix_times_vector() -> None:
    check_between("vectors", lambda x: x + torch.mv(torch.ones(WIDTH, 3), torch.ones(3)), gates=1)


def test_bilinear() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = nn.Bilinear(WIDTH, WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.product(x.tanh(), x)

    # Taken where the output and both inputs are: 1/8 of the entries and, on the diagonal, 1/4.
    eighths = WIDTH**3 - SQUARE
    around, behind = 6 * WIDTH, SQUARE
    free = around / 2 + (behind + SQUARE) * 3 / 4 + eighths * 7 / 8
    share = free / (around + behind + SQUARE + eighths)
    check(Sandwich("vectors", Squared()), torch.randn(2, 3), at_least=share - 0.003, gates=0)


@pytest.mark.parametrize("over", ["tokens", "lines"])
def test_a_linear_layer_over_positions_is_shared_by_its_rows(over: str) -> None:
    """Its weight mixes positions of each feature and serves them all: its rows have a mask of their own."""

    class MixPositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(5 if over == "tokens" else 8, 5 if over == "tokens" else 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x.transpose(1, 2)).transpose(1, 2) if over == "tokens" else self.mix(x)

    size = 30 if over == "tokens" else 72
    net = check_between(over, MixPositions(), one_sided=size, gates=1)
    assert net.registry.groups["middle.mix"].num_features == net.get_parameter("middle.mix.bias").numel()
    assert "middle.mix" in {node.target for node in net.graph.nodes if node.op == "call_module"}


def test_a_linear_layer_over_positions_with_one_row_has_nothing_to_mask() -> None:
    net = check_between("lines", nn.Linear(8, 1), locked=9, gates=1)
    assert "middle" in {name.rpartition(".")[0] for name in net.blueprint.unfollowed}


def test_a_weight_over_positions_that_is_also_added_to_the_features() -> None:
    """It adopts the features that it is added to: both masks multiply it."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.weight
            return x + nn.functional.linear(x.transpose(1, 2), self.weight).transpose(1, 2)

    check(Sandwich("tokens", Both()), torch.randn(2, WIDTH, 3), at_least=0.6)


def test_a_linear_layer_over_positions_that_is_called_twice_has_one_mask() -> None:
    mix = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    net = check_between("lines", nn.Sequential(mix, mix), one_sided=72)
    assert sum("middle" in name for name in net.registry.groups) == 1


def test_a_transposed_weight_is_sound() -> None:
    """`x @ weight.t()` computes its weight: the result is live, but the weight adopts the features it reads."""
    layer = WithWeight(lambda x, w: x @ w.t(), WIDTH, WIDTH)
    check_between("vectors", layer, one_sided=SQUARE, tight=False)


def test_a_weight_used_twice_is_locked_where_either_use_locks_it() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    net = check_between("vectors", nn.Sequential(shared, nn.ReLU(), shared), locked=SQUARE + WIDTH)
    assert not net.lock_masks(1)["middle.0.weight"].all()
