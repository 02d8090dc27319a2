"""Two control tasks of gymnasium, learned one after another by one policy with stable-baselines3's PPO.

    pip install gymnasium stable-baselines3

What is shared is the network that reads observations; each task has a head of its own for actions and one for values.
Accuracy is the share of episodes whose return reaches the threshold at which gymnasium calls a task solved.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from benchmarks.learning.methods import Outcome
from hatify import HATConfig, HATModule, hatify

TASKS = {"CartPole-v1": 50_000, "Acrobot-v1": 100_000}  # steps in the environment
SIZE = 6  # of the longer observation; the other is padded
WIDTH = 128
ENVIRONMENTS = 8  # at once
ROLLOUT, BATCH_SIZE, EPOCHS = 1024, 64, 10
LEARNING_RATE = 1e-3  # of the masks too: stable-baselines3 has one for all
REGULARIZATION = 0.05  # PPO's losses are small
EPISODES = 50


class Padded(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
    """Observations of one length for all tasks."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment)
        self.observation_space = Box(-np.inf, np.inf, (SIZE,), np.float32)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(observation, (0, SIZE - len(observation)))


class Features(BaseFeaturesExtractor):
    """The shared network, where stable-baselines3 looks for one."""

    def __init__(self, observation_space: Box, network: nn.Module) -> None:
        super().__init__(observation_space, WIDTH)
        self.network = network

    def forward(self, observations: Tensor) -> Tensor:
        return self.network(observations)


class TrainMode(BaseCallback):
    """Rollouts under the masks that the following updates have, and not under binary ones."""

    def _on_rollout_start(self) -> None:
        self.model.policy.set_training_mode(True)

    def _on_step(self) -> bool:
        return True


def learn_control(method: str, seed: int) -> Outcome:
    """Learn the tasks in order. method: "hatify", "fine-tuning" or "a network a task"."""
    torch.manual_seed(seed)
    fresh: nn.Module = nn.Sequential(nn.Linear(SIZE, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
    if method == "hatify":
        config = HATConfig(init="normal", schedule="linear")  # chosen on CartPole: the cosine ends too late for PPO
        fresh = hatify(fresh, num_tasks=len(TASKS), example_inputs=(torch.zeros(2, SIZE),), heads=[], config=config)
    network = copy.deepcopy(fresh)
    policies: list[PPO] = []
    learned: list[float] = []
    remembered: list[Tensor] = []
    for task_id, (name, steps) in enumerate(TASKS.items()):
        if method == "a network a task":
            network = copy.deepcopy(fresh)
        policies.append(_policy(name, network, seed))
        with _learning(policies[-1], network, task_id, steps):
            policies[-1].learn(steps, callback=TrainMode())
        learned.append(_solved(policies[-1], task_id))
        remembered.append(_logits(policies[-1], task_id))
    final = [_solved(policy, task_id) for task_id, policy in enumerate(policies)]
    moved = sum(not torch.equal(_logits(policies[task_id], task_id), then) for task_id, then in enumerate(remembered))
    parameters = {id(p): p.numel() for policy in policies for p in policy.policy.parameters()}
    return Outcome(final, learned, moved, sum(parameters.values()))


def _policy(name: str, network: nn.Module, seed: int) -> PPO:
    return PPO(
        "MlpPolicy",
        make_vec_env(lambda: Padded(gymnasium.make(name)), ENVIRONMENTS, seed=seed),
        learning_rate=LEARNING_RATE,
        n_steps=ROLLOUT // ENVIRONMENTS,
        batch_size=BATCH_SIZE,
        n_epochs=EPOCHS,
        seed=seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"network": network},
            "net_arch": [],
            "ortho_init": False,  # it would draw anew what earlier tasks have learned
        },
    )


@contextmanager
def _learning(ppo: PPO, network: nn.Module, task_id: int, steps: int) -> Iterator[None]:
    """Masks learn, too. PPO's loss is its own, so that the regularizer's gradient joins at the optimizer's step."""
    if not isinstance(network, HATModule):
        yield
        return
    updates = -(-steps // ROLLOUT) * EPOCHS * (ROLLOUT // BATCH_SIZE)
    network.set_task(task_id)
    with network.learn(task_id, steps=updates) as task:

        def regularize(*_: Any) -> None:
            (REGULARIZATION * task.regularization()).backward()

        hook = ppo.policy.optimizer.register_step_pre_hook(regularize)
        yield
        hook.remove()


def _answer_for(ppo: PPO, task_id: int) -> None:
    """Set the shared network to a task, in eval mode."""
    ppo.policy.set_training_mode(False)
    network = ppo.policy.features_extractor.network
    if isinstance(network, HATModule):
        network.set_task(task_id)


def _solved(ppo: PPO, task_id: int) -> float:
    _answer_for(ppo, task_id)
    name = list(TASKS)[task_id]
    environment = Padded(gymnasium.make(name))
    environment.reset(seed=1)
    returns, _ = evaluate_policy(
        ppo, environment, n_eval_episodes=EPISODES, deterministic=True, return_episode_rewards=True, warn=False
    )
    threshold = gymnasium.spec(name).reward_threshold
    return float(np.mean(np.array(returns) >= threshold))


@torch.no_grad()
def _logits(ppo: PPO, task_id: int) -> Tensor:
    """What a policy answers to some observations."""
    _answer_for(ppo, task_id)
    observations = torch.randn(256, SIZE, generator=torch.Generator().manual_seed(0))
    return ppo.policy.get_distribution(observations).distribution.logits
