from pathlib import Path

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import PROFILES_DIR, differing_keys, flatten, lay_over, profile_names, resolve
from configs.schema import OPERATIONAL_SECTIONS


@pytest.mark.parametrize("profile", [path.stem for path in PROFILES_DIR.glob("*.yaml")])
@pytest.mark.parametrize("dataset", ["ADA-EUR_1H", "EUR-USD_1m", "XAU-USD_1D", "DEMO-USD_1H"])
def test_every_profile_resolves_for_every_asset_class(profile, dataset):
    assert resolve(dataset, profile).config.profile == profile


def test_standard_carries_the_reference_hyper_parameters():
    config = resolve("ADA-EUR_1H", "standard").config
    classifiers, ppo = config.classifiers, config.ppo
    assert (classifiers.lookback_bars, classifiers.layers, classifiers.units) == (60, 3, 256)
    assert (classifiers.batch_size, classifiers.epochs) == (1024, 150)
    assert (ppo.hidden, ppo.learning_rate, ppo.num_envs) == ((1280, 640), 3e-4, 16)
    assert (ppo.num_envs * ppo.rollout_steps, ppo.minibatch_size, ppo.epochs) == (1024, 1024, 20)
    assert (ppo.discount, ppo.gae_lambda, ppo.clip_range, ppo.timesteps) == (0.99, 0.95, 0.2, 150_000)
    assert (ppo.eval_every_steps, ppo.eval_slices, ppo.checkpoint_every_steps) == (5_000, 5, 25_000)


def test_later_layers_win_and_every_value_names_its_origin(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("ppo: {timesteps: 1000, epochs: 3}\nseed: 7\n")
    resolved = resolve(
        "ADA-EUR_1H",
        "quick",
        file=file,
        environment={"SEQUENCE_PPO__EPOCHS": "4", "SEQUENCE_SEED": "8", "HOME": "/root"},
        settings=["seed=9"],
    )
    assert (resolved.config.ppo.timesteps, resolved.config.ppo.epochs, resolved.config.seed) == (1000, 4, 9)
    assert resolved.origins["ppo.timesteps"] == str(file)
    assert resolved.origins["ppo.epochs"] == "environment"
    assert resolved.origins["seed"] == "--set"
    assert resolved.origins["costs.fee_frac"] == "assets.yaml (crypto)"
    assert resolved.origins["ppo.num_envs"] == "profile quick"
    assert resolved.origins["labels.kind"] == "default"


def test_all_faults_are_reported_at_once_with_value_and_nearest_key():
    with pytest.raises(ConfigError) as caught:
        resolve("ADA-EUR_1H", "quick", settings=["ppo.clip_rang=1", "costs.fee_frac=10", "labels.delta=hi"])
    text = str(caught.value)
    assert "ppo.clip_rang: unknown key, got 1; did you mean 'clip_range'?" in text
    assert "costs.fee_frac: Input should be less than or equal to 0.1, got 10" in text
    assert "labels.delta" in text and "'hi'" in text


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["ppo.minibatch_size=1000"], "does not divide"),
        (["splits.train_frac=0.8"], "leaves no test part"),
        (["ensemble.members=[gru]", "classifiers.members=[lstm]"], "must be one or more of"),
        (["classifiers.members=[gru,gru]"], "different names"),
        (["nonsense"], "is not section.key=value"),
        (["dataset.asset_class=bonds"], "expected one of crypto, fx, commodity"),
        (["ppo=3"], "ppo"),
    ],
)
def test_a_setting_that_contradicts_another_is_refused(settings, part):
    with pytest.raises(ConfigError, match=part):
        resolve("ADA-EUR_1H", "quick", settings=settings)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_every_setting_that_is_a_number_is_a_finite_one(value):
    defaults = flatten(resolve("ADA-EUR_1H", "quick").config.model_dump(mode="json"))
    numbers = [path for path, found in defaults.items() if type(found) in (int, float)]
    assert len(numbers) > 100
    numbers.append("labels.delta")  # `auto` by default
    settings = [f"{path}={value}" for path in numbers]
    settings += [f"gates.lstm_ppo=[{{stage: ppo, at_least: {value}}}]", f"judging.cost_sweep_bps=[0, {value}]"]
    with pytest.raises(ConfigError) as caught:
        resolve("ADA-EUR_1H", "quick", settings=settings)
    says, got = str(caught.value), value.replace(".", "")
    for path in (*numbers, "gates.lstm_ppo.0.at_least", "judging.cost_sweep_bps.1"):
        assert f"  {path}: Input should be a finite number, got {got} (from --set" in says


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\xff\x00"])
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        resolve("ADA-EUR_1H", "quick", file=file)


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(ConfigError, match="full, quick, standard"):
        resolve("ADA-EUR_1H", "fast")
    assert profile_names() == ["full", "quick", "standard"]


def test_operational_settings_are_no_part_of_the_identity():
    one = resolve("ADA-EUR_1H", "quick").config
    other = resolve("ADA-EUR_1H", "quick", settings=["runtime.workers=1", "preflight.min_disk_bytes=5"]).config
    assert one.identity() == other.identity()
    assert not OPERATIONAL_SECTIONS & one.identity().keys()


def test_differing_keys_names_each_value_that_changed():
    one = resolve("ADA-EUR_1H", "quick").config
    other = resolve("ADA-EUR_1H", "quick", settings=["seed=3", "ppo.epochs=2"]).config
    assert differing_keys(one.identity(), other.identity()) == ["ppo.epochs: 8 -> 2", "seed: 0 -> 3"]


def test_the_resolved_configuration_survives_a_round_trip_through_yaml():
    config = resolve("ADA-EUR_1H", "standard").config
    assert type(config).model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_a_resumed_run_takes_operational_settings_of_the_command_and_no_others():
    begun = resolve("ADA-EUR_1H", "quick", settings=["seed=3", "runtime.workers=1"]).config
    environment = {"SEQUENCE_STORE__LEASE_S": "30", "SEQUENCE_SEED": "9", "SEQUENCE_GIT_TOKEN": "hush"}
    config = lay_over(begun, environment, ['store.url="file:///there"', "ppo.epochs=99"])
    assert config.identity() == begun.identity()
    assert (config.store.url, config.store.lease_s, config.runtime.workers) == ("file:///there", 30, 1)


def test_a_wrong_operational_setting_names_its_key():
    begun = resolve("ADA-EUR_1H", "quick").config
    with pytest.raises(ConfigError, match=r"store.lease: unknown key.*did you mean 'lease_s'"):
        lay_over(begun, {}, ["store.lease=3"])


@pytest.mark.parametrize("month", ["2023-13", "2023-1", "May 2023", "2023-05-01"])
def test_a_test_month_is_a_year_and_a_month(month):
    with pytest.raises(ConfigError, match="first_test_month"):
        resolve("DEMO-USD_1H", "quick", settings=[f"walk_forward.first_test_month={month}"])
