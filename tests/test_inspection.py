"""What a network tells about itself: in tables, in words, as a tree and in pictures."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.errors import HatifyError
from hatify.module import HATModule
from hatify.verification.trials import draw_masks


def converted(name: str, trained: int = 0) -> HATModule:
    net = hatify(timm.create_model(name, num_classes=10), num_tasks=3)
    for task_id in range(trained):
        draw_masks(net, task_id)
        net.registry.trained.append(task_id)
    return net


@pytest.fixture(scope="module")
def resnet() -> HATModule:
    return converted("resnet10t", trained=2)


def svg_texts(svg: str) -> list[str]:
    """All text in a drawing, which keeps it in comments beside the outlines of its letters."""
    comments = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return [
        e.text.strip() for e in ElementTree.fromstring(svg, comments).iter() if e.tag is ElementTree.Comment and e.text
    ]


def test_summary_counts_what_is_there(resnet: HATModule) -> None:
    summary = resnet.summary()
    assert [group.name for group in summary.groups] == list(resnet.registry.groups)
    assert summary.shared_parameters == sum(resnet.get_parameter(name).numel() for name in resnet.shared_parameters())
    for group in summary.groups:
        either = resnet.registry.groups[group.name].locked_mask(None)
        assert group.free == group.num_features - int(either.sum())
    own = sum(p.numel() for p in resnet.registry.task_embeddings(0))
    assert summary.parameters_per_task > own
    text = str(summary)
    assert "tasks" in text and "task 1" in text and summary.groups[0].name in text


def test_summary_names_what_was_left_live() -> None:
    @torch.library.custom_op("hatify_tests::unknown", mutates_args=())
    def unknown(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @unknown.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(unknown(self.first(x)))

    net = hatify(Unknown(), num_tasks=2)
    assert list(net.summary().unknown) == ["hatify_tests.unknown.default"]
    assert "hatify_tests.unknown.default" in str(net.summary())
    assert "hatify_tests.unknown.default" in net._repr_html_()


def test_explain_says_what_the_locks_do(resnet: HATModule) -> None:
    """The sides that are named are those that decide: with their groups' features taken, entries lock, else not."""
    for path in ("layer1.0.conv1", "layer2.0.conv2", "layer2.0.bn1"):
        explanation = resnet.explain(path)
        (weight,) = [p for p in explanation.parameters if p.name == f"{path}.weight"]
        taken = {name: group.locked_mask(None) for name, group in resnet.registry.groups.items()}
        expected = torch.zeros(weight.shape, dtype=torch.bool)
        locks = resnet.lock_masks(2)[weight.name]
        for use in weight.uses:
            every = torch.ones(weight.shape, dtype=torch.bool)
            for side in use:
                (group,) = side.groups
                shape = [-1 if d == side.dimension else 1 for d in range(len(weight.shape))]
                every &= taken[group].reshape(shape)
            expected |= every
        if len(resnet.explain(path).parameters) and weight.uses:
            # A product of unions is what one task after the other locks at most.
            assert bool((locks <= expected).all())
            assert weight.locked == pytest.approx(locks.float().mean().item())


def test_explain_finds_the_gate(resnet: HATModule) -> None:
    explanation = resnet.explain("layer1.0.conv1")
    assert explanation.writes == ("layer1.0.conv1",)
    (read,) = explanation.reads
    assert "layer1.0.conv2" in resnet.registry.groups[read].members  # the residual stream, which conv2 writes to
    assert explanation.gates["layer1.0.conv1"] == ("layer1.0.bn1 (weight, bias)",)
    words = str(explanation)
    assert "an entry is locked once a trained task uses its feature of 'layer1.0.conv1'" in words
    assert "layer1.0.bn1 (weight, bias)" in words


def test_a_layer_scale_carries_the_mask_of_the_layer_that_it_scales() -> None:
    net = hatify(timm.create_model("test_convnext"), num_tasks=2)
    explanation = net.explain("stages.0.blocks.0.mlp.fc2")
    (stream,) = explanation.writes
    assert "stages.0.blocks.0.gamma" in explanation.gates[stream]
    assert not any("mlp.fc2" in carrier for carrier in explanation.gates[stream])
    assert net.summary().gates == 0


def test_explain_of_a_head(resnet: HATModule) -> None:
    assert "each task has its own" in str(resnet.explain("fc"))


def test_explain_of_a_last_layer_that_all_tasks_share() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    net = hatify(model, num_tasks=2, heads=[], example_inputs=(torch.randn(2, 8),))
    explanation = net.explain("2")
    assert (explanation.writes, explanation.reads) == ((), ("0",))
    assert "uses anything (dimension 0) and its feature of '0' (dimension 1)" in str(explanation)


def test_explain_of_weights_with_two_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.head = nn.Embedding(20, 16), nn.LayerNorm(16), nn.Linear(16, 20, bias=False)
            self.head.weight, self.norm_again = self.table.weight, self.norm

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.norm_again(self.norm(self.table(tokens))))

    net = hatify(Tied(), num_tasks=2, example_inputs=(torch.randint(20, (2, 5)),))
    for path in ("table", "head"):
        (weight,) = net.explain(path).parameters
        assert weight.kind == "shared" and weight.uses
    for path in ("norm", "norm_again"):
        assert {parameter.kind for parameter in net.explain(path).parameters} == {"once a task"}


def test_explain_helps_with_names(resnet: HATModule) -> None:
    with pytest.raises(HatifyError, match=r"'layer1' is no layer .* layer1\.0\.conv1"):
        resnet.explain("layer1")


class _Tags(HTMLParser):
    """Which tags are open, and what was said in all."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_a_notebook_shows_every_layer_and_group(name: str) -> None:
    net = converted(name, trained=1)
    tree = _Tags()
    tree.feed(net._repr_html_())
    assert not tree.open
    assert all(group in tree.text for group in net.registry.groups)
    assert "% locked" in tree.text and "each task has its own" in tree.text


def test_drawing_shows_each_layer_once_and_repeated_blocks_as_one(tmp_path: Path) -> None:
    net = hatify(timm.create_model("resnet50", num_classes=10), num_tasks=2)
    picture = net.draw(tmp_path / "graph.svg")
    texts = svg_texts((tmp_path / "graph.svg").read_text())
    assert any("layer3.1 to layer3.5: 5 times" in text for text in texts)
    assert sum("conv2d 256x256x3x3" in text for text in texts) == 2  # of the first block, and of the five
    assert sum("add" in text for text in texts) == 8
    assert picture._repr_svg_().lstrip().startswith("<?xml")


def test_drawing_a_transformer(tmp_path: Path) -> None:
    net = converted("test_vit")
    net.draw(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_has_a_known_format_and_leaves_nothing(resnet: HATModule, tmp_path: Path) -> None:
    with pytest.raises(HatifyError, match=r"\.svg"):
        resnet.draw(tmp_path / "graph.gif")
    assert not list(tmp_path.iterdir())


def test_plots_show_every_group(resnet: HATModule) -> None:
    masks, capacity = resnet.plot_masks().figure, resnet.plot_capacity().figure
    titles = [axes.get_title() for axes in masks.axes]
    assert titles == [f"{name}: {group.num_features}" for name, group in resnet.registry.groups.items()]
    bars = {bar.get_label(): [patch.get_width() for patch in bar] for bar in capacity.axes[0].containers}
    free = [group.free / group.num_features for group in resnet.summary().groups]
    assert bars["free"] == pytest.approx(free)
    assert [sum(shares) for shares in zip(*bars.values(), strict=True)] == pytest.approx([1.0] * len(free))


def test_plots_need_a_trained_task() -> None:
    with pytest.raises(HatifyError, match="no task is trained"):
        converted("test_vit").plot_masks()


def test_what_pictures_need_is_named(resnet: HATModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(HatifyError, match=r"igraph: pip install 'hatify\[draw\]'"):
        resnet.draw()
