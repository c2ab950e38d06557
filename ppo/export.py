"""Export a policy as a Stable-Baselines3 zip, for people who want to use it there; nothing here loads one.

`ppo` opens with `stable_baselines3.PPO.load`, `maskable` with
`sb3_contrib.MaskablePPO.load`: the two want different policy classes, so no one
file serves both. A policy with memory cannot be exported: no class of theirs has both
memory and masks. Equal policies give equal bytes: SB3's zip is packed again
without its clock, memory addresses and description of the machine.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from configs.files import write_atomic
from configs.schema import EnvConfig, PPOConfig
from ppo.learner.policy import Policy, PolicySizes

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

Algorithm = Literal["ppo", "maskable"]
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can state."""
MACHINE_FILE = "system_info.txt"
SB3_NAMES = {
    "core.actor": "mlp_extractor.policy_net",
    "core.critic": "mlp_extractor.value_net",
    "logits_head": "action_net",
    "value_head": "value_net",
    "log_deviation": "log_std",
}
"""Where Stable-Baselines3 keeps each part of a policy."""


def write_export(path: Path, policy: Policy, ppo: PPOConfig, env: EnvConfig, algorithm: Algorithm) -> None:
    """Write `policy` as a zip that `algorithm`'s `load` opens."""
    buffer = io.BytesIO()
    # the optimizer's slots are training state, not part of the agent
    sb3_model(policy, ppo, env, algorithm).save(buffer)
    write_atomic(path, _reproducible(buffer.getvalue()))


def sb3_model(policy: Policy, ppo: PPOConfig, env: EnvConfig, algorithm: Algorithm) -> OnPolicyAlgorithm:
    """A Stable-Baselines3 model with the weights of `policy`, without environments; global random state stays."""
    kind, name = _algorithm(algorithm)
    with torch.random.fork_rng(devices=[]):
        model = kind(
            name,
            None,  # type: ignore[arg-type]
            n_steps=ppo.rollout_steps,
            policy_kwargs=policy_kwargs(ppo),
            device="cpu",
            _init_setup_model=False,
            **hyperparameters(ppo),
        )
        model.n_envs = ppo.num_envs
        limit = env.observation_clip
        model.observation_space = spaces.Box(-limit, limit, (policy.sizes.observation,), np.float32)
        legs = spaces.Box(-1, 1, (policy.sizes.actions,), np.float32)
        model.action_space = legs if policy.sizes.continuous else spaces.Discrete(policy.sizes.actions)
        model._setup_model()
    model.policy.load_state_dict(to_sb3(policy.state_dict()))
    return model


def hyperparameters(ppo: PPOConfig) -> dict[str, Any]:
    """The constructor arguments of PPO and MaskablePPO that mean what `ppo` says."""
    from stable_baselines3.common.utils import LinearSchedule

    return {
        "learning_rate": LinearSchedule(ppo.learning_rate, ppo.learning_rate_final, 1.0),
        "batch_size": ppo.minibatch_size,
        "n_epochs": ppo.epochs,
        "gamma": ppo.discount,
        "gae_lambda": ppo.gae_lambda,
        "clip_range": ppo.clip_range,
        "ent_coef": ppo.entropy_coef,
        "vf_coef": ppo.value_coef,
        "max_grad_norm": ppo.max_grad_norm,
        "target_kl": ppo.target_kl or None,
    }


def policy_kwargs(ppo: PPOConfig) -> dict[str, Any]:
    """SB3's description of two separate tanh nets."""
    return {"net_arch": {"pi": list(ppo.hidden), "vf": list(ppo.hidden)}, "activation_fn": torch.nn.Tanh}


def to_sb3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names to Stable-Baselines3's."""
    return _renamed(weights, SB3_NAMES)


def from_sb3(weights: dict[str, Tensor], sizes: PolicySizes) -> Policy:
    """A policy with the weights of a Stable-Baselines3 policy of the same sizes."""
    policy = Policy(sizes)
    policy.load_state_dict(_renamed(weights, {theirs: ours for ours, theirs in SB3_NAMES.items()}))
    return policy


def _renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    return {
        to + name.removeprefix(old): value.detach().cpu()
        for old, to in names.items()
        for name, value in weights.items()
        if name == old or name.startswith(old + ".")
    }


def _algorithm(algorithm: Algorithm) -> tuple[type[OnPolicyAlgorithm], str]:
    if algorithm == "ppo":
        from stable_baselines3 import PPO

        return PPO, "MlpPolicy"
    from sb3_contrib import MaskablePPO

    return MaskablePPO, "MlpPolicy"


def _reproducible(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name != MACHINE_FILE:
                content = source.read(name)
                content = _without_addresses(content) if name == "data" else content
                target.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _without_addresses(data: bytes) -> bytes:
    """Drop the readable mirror of each serialized entry: it prints memory addresses and nothing reads it."""
    entries = json.loads(data)
    for name, entry in entries.items():
        if isinstance(entry, dict) and ":serialized:" in entry:
            entries[name] = {key: entry[key] for key in (":type:", ":serialized:")}
    return json.dumps(entries, indent=1, sort_keys=True).encode()
