"""The exports open in Stable-Baselines3 and act as our policy does; the product itself never opens one."""

import zipfile

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from configs.errors import BadDataError
from ppo.export import from_sb3, write_export
from ppo.learner.policy import Policy, PolicySizes, read_policy, save_policy

SIZES = PolicySizes(observation=22, actions=9, hidden=(24, 16))


@pytest.fixture(scope="module")
def settings(quick_config):
    return quick_config.ppo.model_copy(update={"hidden": SIZES.hidden}), quick_config.env


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Far from its start: all nine actions are somebody's likeliest."""
    policy = Policy(SIZES, torch.Generator().manual_seed(4))
    with torch.no_grad():
        policy.logits_head.weight.mul_(500)
    return policy


def observations(count=2_000):
    rng = np.random.default_rng(1)
    mask = rng.random((count, 9)) < 0.6
    mask[:, 0] = True
    return rng.normal(size=(count, 22)).astype(np.float32), mask


def greedy(policy, obs, mask):
    return policy.player(len(obs))(obs, mask, np.ones(len(obs), bool))


def test_maskable_ppo_loads_the_export_and_takes_the_same_actions(tmp_path, policy, settings):
    write_export(tmp_path / "agent.zip", policy, *settings, "maskable")
    model = MaskablePPO.load(tmp_path / "agent.zip", device="cpu")
    obs, mask = observations()
    actions, _ = model.predict(obs, deterministic=True, action_masks=mask)
    assert len(np.unique(actions)) == 9
    assert np.array_equal(actions, greedy(policy, obs, mask))


def test_ppo_loads_the_export_and_takes_the_same_actions(tmp_path, policy, settings):
    write_export(tmp_path / "agent.zip", policy, *settings, "ppo")
    model = PPO.load(tmp_path / "agent.zip", device="cpu")
    obs, mask = observations()
    actions, _ = model.predict(obs, deterministic=True)
    assert np.array_equal(actions, greedy(policy, obs, np.ones_like(mask)))


def test_the_export_carries_value_net_and_settings(tmp_path, policy, settings):
    write_export(tmp_path / "agent.zip", policy, *settings, "ppo")
    model = PPO.load(tmp_path / "agent.zip", device="cpu")
    assert (model.gamma, model.n_steps, model.n_envs) == (
        settings[0].discount,
        settings[0].rollout_steps,
        settings[0].num_envs,
    )
    obs, mask = observations(50)
    ours = policy(torch.from_numpy(obs), policy.initial_state(50), torch.from_numpy(mask[:, 0]))[1]
    assert torch.allclose(model.policy.predict_values(torch.from_numpy(obs)).squeeze(-1), ours, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["ppo", "maskable"])
def test_equal_policies_give_equal_bytes(tmp_path, policy, settings, algorithm):
    write_export(tmp_path / "first.zip", policy, *settings, algorithm)
    write_export(tmp_path / "second.zip", policy, *settings, algorithm)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_the_export_names_no_time_no_machine_and_no_address(tmp_path, policy, settings):
    write_export(tmp_path / "agent.zip", policy, *settings, "ppo")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        assert "system_info.txt" not in archive.namelist()
        assert b" at 0x" not in archive.read("data")
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_exporting_leaves_the_global_random_state_alone(tmp_path, policy, settings):
    before = torch.random.get_rng_state()
    write_export(tmp_path / "agent.zip", policy, *settings, "ppo")
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_go_to_sb3_and_back(tmp_path, policy, settings):
    write_export(tmp_path / "agent.zip", policy, *settings, "maskable")
    theirs = MaskablePPO.load(tmp_path / "agent.zip", device="cpu").policy.state_dict()
    back = from_sb3(theirs, SIZES).state_dict()
    assert all(torch.equal(value, back[name]) for name, value in policy.state_dict().items())


def test_a_saved_policy_decides_as_before(tmp_path, policy):
    save_policy(tmp_path, policy)
    obs, mask = observations(200)
    assert np.array_equal(greedy(read_policy(tmp_path), obs, mask), greedy(policy, obs, mask))


def test_a_new_policy_starts_as_sb3_starts_one(settings):
    """Orthogonal rows with gain sqrt(2), 0.01 for logits and 1 for the value; no bias."""
    policy = Policy(SIZES, torch.Generator().manual_seed(0))
    first = policy.core.actor[0].weight
    assert torch.allclose(first.T @ first, 2 * torch.eye(22), atol=1e-5)
    assert torch.allclose(policy.logits_head.weight.norm(dim=1), torch.full((9,), 0.01), atol=1e-6)
    assert policy.value_head.weight.norm().item() == pytest.approx(1)
    assert all((value == 0).all() for name, value in policy.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("damage", ["policy.safetensors", "policy.json"])
def test_a_damaged_policy_is_refused_with_its_place(tmp_path, policy, damage):
    save_policy(tmp_path, policy)
    (tmp_path / damage).write_bytes(b"{}")
    with pytest.raises(BadDataError, match=str(tmp_path)):
        read_policy(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path, policy):
    save_policy(tmp_path, policy)
    text = (tmp_path / "policy.json").read_text()
    (tmp_path / "policy.json").write_text(text.replace('"observation": 22', '"observation": 21'))
    with pytest.raises(BadDataError, match="size mismatch"):
        read_policy(tmp_path)
