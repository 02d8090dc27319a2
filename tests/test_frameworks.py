"""The frameworks that people train with, each as its own documentation uses it: a second task leaves the first."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import hatify.timm  # noqa: F401  (registers names)
from hatify import hatify as convert
from hatify.errors import TrainingError
from hatify.module import HATModule

EXAMPLES, CLASSES = 48, 2


def network() -> HATModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.LayerNorm(24), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2))
    return convert(model, num_tasks=3)


def examples(task_id: int) -> TensorDataset:
    """Two classes that one input tells apart, another one in each task."""
    generator = torch.Generator().manual_seed(task_id)
    inputs = torch.randn(EXAMPLES, 6, generator=generator)
    return TensorDataset(inputs, (inputs[:, task_id] > 0).long())


def logits(net: HATModule, task_id: int) -> Tensor:
    with torch.no_grad():
        answer: Tensor = net.eval()(examples(0).tensors[0], task_id=task_id)
    return answer


def accuracy(net: HATModule, task_id: int) -> float:
    inputs, labels = examples(task_id).tensors
    with torch.no_grad():
        return float((net.eval()(inputs, task_id=task_id).argmax(1) == labels).float().mean())


# -- Lightning ---------------------------------------------------------------------------------------------------------


def lightning_module(net: HATModule, fails_at: int | None = None) -> Any:
    from lightning.pytorch import LightningModule

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, step: int) -> Tensor:
            if step == fails_at:
                raise RuntimeError("out of luck")
            inputs, labels = batch
            return cross_entropy(self.net(inputs), labels)

        def validation_step(self, batch: Any, step: int) -> None:
            inputs, labels = batch
            self.log("accuracy", (self.net(inputs).argmax(1) == labels).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(net.parameter_groups(mask_learning_rate=0.1), lr=0.01)

    return Classifier()


def fit_with_lightning(net: HATModule, task_id: int, epochs: int = 30, **options: Any) -> Any:
    from lightning.pytorch import Trainer

    from hatify.frameworks.lightning import HATCallback

    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[HATCallback(task_id), *options.pop("callbacks", [])],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options.pop("trainer", {}),
    )
    loader = DataLoader(examples(task_id), 8, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer.fit(lightning_module(net, **options), loader, DataLoader(examples(task_id), 8))
    return trainer


@pytest.mark.parametrize("trainer", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}], ids=str)
def test_lightning(trainer: dict[str, Any]) -> None:
    pytest.importorskip("lightning")
    net = network()
    fit_with_lightning(net, 0, trainer=dict(trainer))
    assert net.trained_tasks == (0,)
    before = logits(net, 0)
    fitted = fit_with_lightning(net, 1, trainer=dict(trainer))
    assert net.trained_tasks == (0, 1)
    assert torch.equal(logits(net, 0), before)
    assert accuracy(net, 1) > 0.85
    assert float(fitted.callback_metrics["accuracy"]) > 0.85  # under the masks of the task that is trained


def test_lightnings_averages_are_written_before_a_task_ends() -> None:
    pytest.importorskip("lightning", minversion="2.6")
    from lightning.pytorch.callbacks import EMAWeightAveraging

    net = network()
    fit_with_lightning(net, 0)
    before = logits(net, 0)
    fit_with_lightning(net, 1, callbacks=[EMAWeightAveraging(decay=0.9)])
    assert net.trained_tasks == (0, 1)
    assert torch.equal(logits(net, 0), before)
    assert net.moved_since_trained(1) == ()


def test_lightning_after_an_exception() -> None:
    pytest.importorskip("lightning")
    net = network()
    with pytest.raises(RuntimeError, match="out of luck"):
        fit_with_lightning(net, 0, fails_at=3)
    assert net.trained_tasks == ()
    fit_with_lightning(net, 0)
    assert net.trained_tasks == (0,)


def test_a_schedule_needs_an_end() -> None:
    pytest.importorskip("lightning")
    with pytest.raises(TrainingError, match="max_epochs"):
        fit_with_lightning(network(), 0, epochs=-1)


def test_the_regularizer_acts_under_lightning() -> None:
    pytest.importorskip("lightning")
    from lightning.pytorch import Trainer

    from hatify.frameworks.lightning import HATCallback

    used = []
    for weight in (0.0, 5.0):
        net = network()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=30, callbacks=[HATCallback(0, weight)], accelerator="cpu", **quiet)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(lightning_module(net), DataLoader(examples(0), 8, shuffle=True))
        used.append(sum(group.used[0] for group in net.capacity().values()))
    assert used[1] < used[0]


# -- transformers ------------------------------------------------------------------------------------------------------


def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from hatify.frameworks.transformers import HATCallback

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    ids = torch.randint(20, (EXAMPLES, 6), generator=torch.Generator().manual_seed(0))
    labels = {task: (ids[:, 0] >= 10).long() if task == 0 else (ids[:, 1] >= 10).long() for task in (0, 1)}
    net = convert(
        transformers.BertForSequenceClassification(config),
        num_tasks=2,
        example_inputs={"input_ids": ids[:3], "labels": labels[0][:3]},
    )

    def train(task_id: int) -> None:
        data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels[task_id], strict=True)]
        arguments = transformers.TrainingArguments(
            str(tmp_path), num_train_epochs=3, per_device_train_batch_size=8, report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=True, learning_rate=5e-3, logging_strategy="no",
        )  # fmt: skip
        transformers.Trainer(model=net, args=arguments, train_dataset=data, callbacks=[HATCallback(task_id)]).train()

    def answer(task_id: int) -> Tensor:
        with torch.no_grad():
            output = net.eval()(input_ids=ids, labels=labels[task_id], task_id=task_id)
        logits: Tensor = output.logits
        return logits

    train(0)
    assert net.trained_tasks == (0,)
    before = answer(0)
    untrained = answer(1)
    train(1)
    assert net.trained_tasks == (0, 1)
    assert torch.equal(answer(0), before)
    assert not torch.equal(answer(1), untrained)


def test_a_model_without_a_converted_network_is_refused() -> None:
    from hatify.frameworks.network import the_network_in

    with pytest.raises(TrainingError, match="Linear holds no networks"):
        the_network_in(nn.Linear(2, 2))
    with pytest.raises(TrainingError, match="holds 2 networks"):
        the_network_in(nn.ModuleList([network(), network()]))


# -- Avalanche ---------------------------------------------------------------------------------------------------------


def naive_strategy(net: HATModule, *plugins: Any, eval_every: int = -1) -> Any:
    from avalanche.training import Naive

    from hatify.frameworks.avalanche import HATPlugin

    return Naive(
        model=net,
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.01),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=10,
        eval_mb_size=EXAMPLES,
        eval_every=eval_every,
        plugins=[HATPlugin(), *plugins],
    )


def avalanche_benchmark() -> Any:
    """Three tasks."""
    pytest.importorskip("avalanche")
    from avalanche.benchmarks import tensors_benchmark

    tensors = [examples(task).tensors for task in range(3)]
    return tensors_benchmark(tensors, tensors, task_labels=[0, 1, 2])


def test_avalanche() -> None:
    benchmark = avalanche_benchmark()
    net = network()
    strategy = naive_strategy(net)
    remembered: list[Tensor] = []
    for task_id, experience in enumerate(benchmark.train_stream):
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
        assert net.trained_tasks == tuple(range(task_id + 1))
        assert all(torch.equal(logits(net, seen), before) for seen, before in enumerate(remembered))
        remembered.append(logits(net, task_id))


def test_avalanche_evaluates_each_task_as_itself_in_the_midst_of_another() -> None:
    benchmark = avalanche_benchmark()
    from avalanche.core import SupervisedPlugin

    class Logits(SupervisedPlugin[Any]):
        def __init__(self) -> None:
            super().__init__()
            self.of_the_first: list[Tensor] = []

        def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.experience.task_label == 0:
                self.of_the_first.append(strategy.mb_output)

    net, seen = network(), Logits()
    strategy = naive_strategy(net, seen, eval_every=5)
    strategy.train(benchmark.train_stream[0])
    seen.of_the_first.clear()
    strategy.train(benchmark.train_stream[1], eval_streams=[benchmark.test_stream])
    assert net.trained_tasks == (0, 1)
    assert len(seen.of_the_first) >= 2
    assert all(torch.equal(answer, logits(net, 0)) for answer in seen.of_the_first)


def test_avalanche_after_an_exception() -> None:
    benchmark = avalanche_benchmark()
    from avalanche.core import SupervisedPlugin

    class Interruption(SupervisedPlugin[Any]):
        armed = True

        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            if self.armed:
                raise KeyboardInterrupt

    net, interruption = network(), Interruption()
    strategy = naive_strategy(net, interruption)
    with pytest.raises(KeyboardInterrupt):
        strategy.train(benchmark.train_stream[0])
    assert net.trained_tasks == ()
    interruption.armed = False
    strategy.train(benchmark.train_stream[0])
    assert net.trained_tasks == (0,)


# -- timm --------------------------------------------------------------------------------------------------------------


def test_every_name_of_timm_has_a_converted_form() -> None:
    names = set(timm.list_models())
    plain = {name for name in names if not name.startswith("hat_")}
    assert len(plain) > 1000
    assert {f"hat_{name}" for name in plain} <= names


def test_timm_makes_a_converted_network() -> None:
    net = timm.create_model("hat_test_resnet", num_tasks=2, num_classes=[3, 5], drop_rate=0.1)
    assert isinstance(net, HATModule)
    x = torch.randn(2, 3, 160, 160)
    assert [net.eval()(x, task_id=task).shape[1] for task in (0, 1)] == [3, 5]
    for classes in (7, np.int64(7)):
        net = timm.create_model("hat_test_vit", num_tasks=2, num_classes=classes)
        assert net(torch.randn(2, 3, 160, 160)).shape == (2, 7)
