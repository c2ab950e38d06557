"""From a command line to what is sent: nothing wrong gets as far as a provider, nothing secret gets seen."""

import json
import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cli import main
from runner.launch import survey
from runner.launch.book import Book
from runner.launch.provider import Offer, Order
from runner.launch.runpod import spot
from runner.launch.runpod.provider import arguments_of
from tests.providers.base import Reply
from tests.providers.runpod import SCHEMAS, FakeRunPod, Fault, gpu_type, problem
from tests.providers.schema import faults
from tests.runner.launch.conftest import A40, DATASET, SECRETS, Launch

CREATE = "POST /pods"


def shown(launch: Launch, capsys, *arguments: str) -> tuple[str, dict, str]:
    """First line, body and stderr of a dry run."""
    capsys.readouterr()
    assert launch("runpod", "--dry-run", *arguments) == 0
    said = capsys.readouterr()
    head, _, body = said.out.partition("\n\n")
    return head, json.loads(body), said.err


def test_a_dry_run_sends_nothing_and_needs_no_key(runpod: FakeRunPod, launch: Launch, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RUNPOD_API_KEY")
    head, body, said = shown(launch, capsys)
    assert head == f"POST {runpod.url}/pods" and "nothing is sent" in said
    assert not runpod.calls and not (tmp_path / ".launches").exists()
    assert not faults(SCHEMAS, "CreatePodRequest", body)


def test_a_dry_run_shows_what_a_launch_sends_but_for_secrets_price_and_place(runpod, launch, capsys):
    _, body, _ = shown(launch, capsys, "--max-cost", "5")
    assert launch("runpod", "--max-cost", "5") == 0
    sent = runpod.made(CREATE)[0].body
    assert sent.pop("dataCenterIds") == ["EU-SE-1"]
    assert sent["env"].pop("SEQUENCE_BUDGET__PRICE_USD_PER_HOUR") == "0.44"
    hours = float(sent["env"].pop("SEQUENCE_END_AFTER_H"))
    assert hours == pytest.approx(5 / 0.44 + 0.5, abs=1e-4), "half an hour beyond the ceiling, by no clock of ours"
    assert body["env"].pop("SEQUENCE_END_AFTER_H")
    assert body == sent | {"env": sent["env"] | {name: f"<value of {name}>" for name in SECRETS}}


def test_a_dry_run_shows_no_password_of_an_address(runpod: FakeRunPod, launch: Launch, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://user:hunter2hunter2@minio.example.org")
    monkeypatch.setenv("SEQUENCE_RUNPOD_URL", "https://user:hunter2hunter2@127.0.0.1:1/v2")
    assert launch("runpod", "--dry-run") == 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err and "minio.example.org" in said.out


def test_no_secret_is_shown_or_kept_whatever_happens(runpod: FakeRunPod, launch: Launch, tmp_path, monkeypatch, capsys):
    hidden = {**SECRETS, "MY_SETTING": "plain-name-secret-value", "RUNPOD_API_KEY": runpod.key}
    monkeypatch.setenv("MY_SETTING", hidden["MY_SETTING"])
    monkeypatch.setattr(survey, "PATIENCE_S", 0.1)  # the store of these tests does not answer
    extra = ("--secret", "MY_SETTING")
    codes = [launch("runpod", "--dry-run", *extra)]
    echo = problem(422, "Unprocessable", f"bad env: {json.dumps(hidden)}", list(hidden.values()))
    runpod.faults += [Fault(CREATE, echo), Fault(CREATE, problem(500, "Error", str(hidden))), Fault(CREATE, lost=True)]
    codes += [launch("runpod", *extra), launch("runpod", *extra), launch("list"), launch("list", "--json")]
    assert codes == [0, 78, 0, 0, 0]
    (pod,) = runpod.pods.values()
    assert {pod.body["env"].get(name) for name in hidden} == {*hidden.values()} - {runpod.key} | {None}
    said = capsys.readouterr()
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert not [name for name, value in hidden.items() if value in said.out + said.err + kept]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--set", "ppo.timestep=1"), 78, "did you mean 'timesteps'"),
        (("--profile", "fast"), 78, "unknown profile"),
        (("--store", "file:///tmp/x"), 78, "end with it"),
        (("--store", ""), 78, "results would end"),
        (("--store", "s3://"), 78, "no known form"),
        (("--store", "s3:///x"), 78, "no known form"),
        (("--store", "s3://b?x=1"), 78, "query"),
        (("--store", "s3://A:hunter2hunter2@b/x"), 78, "carries credentials"),
        (("--dataset", DATASET.replace("runs", "A:hunter2hunter2@runs")), 78, "carries credentials"),
        (("--secret", "=runpod:x"), 2, "no name of a variable"),
        (("--secret", "A B=runpod:x"), 2, "no name of a variable"),
        (("--secret", ""), 2, "no name of a variable"),
        (("--image", ""), 78, "SEQUENCE_IMAGE"),
        (("--dataset", "NONSENSE"), 78, "NONSENSE"),
        (("--run-id", "../x"), 78, "run id"),
        (("--secret", "NOT_SET_ANYWHERE"), 78, "NOT_SET_ANYWHERE"),
        (("--secret", "TOKEN=hunter2hunter2"), 2, "never the secret itself"),
        (("--max-cost", "0"), 2, "finite number"),
        (("--spot", "--ssh-key", "x"), 2, "--ssh-key"),
        (("--stages", "prepare,pppo"), 78, "pppo"),
        (("--until", "everything"), 78, "everything"),
        (("--min-cuda", "12"), 2, "12.8"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_sent(runpod, launch, capsys, arguments, code, words):
    assert launch("runpod", *arguments) == code
    said = capsys.readouterr().err
    assert words in said and "hunter2" not in said and "Traceback" not in said
    assert not runpod.calls


def test_a_store_without_credentials_here_is_refused(runpod: FakeRunPod, launch: Launch, monkeypatch, capsys):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert launch("runpod") == 78
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err and not runpod.calls
    assert launch("runpod", "--secret", "AWS_SECRET_ACCESS_KEY=runpod:my_aws_key") == 0
    assert runpod.made(CREATE)[0].body["env"]["AWS_SECRET_ACCESS_KEY"] == "{{ RUNPOD_SECRET_my_aws_key }}"


def test_the_file_of_a_service_account_goes_along_as_text(runpod, launch, tmp_path, monkeypatch, capsys):
    account = {
        "type": "service_account",
        "private_key": "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\n",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account, indent=2))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.delenv("GOOGLE_CREDENTIALS_JSON", raising=False)
    assert launch("runpod", "--store", "gs://bucket/prefix") == 0
    env = runpod.made(CREATE)[0].body["env"]
    assert json.loads(env["GOOGLE_CREDENTIALS_JSON"]) == account and "\n" not in env["GOOGLE_CREDENTIALS_JSON"]
    assert "AWS_SECRET_ACCESS_KEY" not in env
    said = capsys.readouterr()
    assert "MIIabc" not in said.out + said.err


def test_the_name_is_the_same_for_the_same_command_and_another_for_other_settings(runpod, launch, capsys):
    def name(*arguments: str) -> str:
        return shown(launch, capsys, *arguments)[1]["name"]

    assert name() == name("--gpu", "NVIDIA RTX A5000", "--max-hours", "3", "--workers", "1")
    assert len({name(), name("--set", "seed=7"), name("--profile", "standard"), name("--run-id", "mine")}) == 4


def test_file_environment_and_options_are_written_out_in_their_order(runpod, launch, tmp_path, monkeypatch, capsys):
    config = tmp_path / "my.yaml"
    config.write_text("seed: 1\nppo: {timesteps: 1000}\nclassifiers: {units: 16}\n")
    monkeypatch.setenv("SEQUENCE_PPO__TIMESTEPS", "2000")
    monkeypatch.setenv("SEQUENCE_CLASSIFIERS__UNITS", "24")
    _, body, _ = shown(launch, capsys, "--config", str(config), "--set", "classifiers.units=32")
    words = shlex.split(body["args"])
    settings = {words[at + 1] for at, word in enumerate(words) if word == "--set"}
    assert {"seed=1", "ppo.timesteps=2000", "classifiers.units=32"} <= settings
    assert "--config" not in words and not {name for name in body["env"] if "__" in name}


def test_the_runner_takes_the_arguments_as_they_are_sent(runpod, launch, capsys):
    _, body, _ = shown(launch, capsys, "--profile", "standard", "--set", "ppo.timesteps=4096", "--max-hours", "3")
    words = shlex.split(body["args"])
    for flag in ("--run-id", "--store", "--max-hours"):  # `config show` is not about one run
        at = words.index(flag)
        words[at : at + 2] = []
    words.remove("--require-gpu")
    words[words.index(DATASET)] = "ADA-EUR_1H"
    assert main(["config", "show", *words]) == 0
    assert "4096" in capsys.readouterr().out


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_the_one_text_of_arguments_says_every_word(words):
    assert shlex.split(arguments_of(Order("run", "image", tuple(words), A40))) == words


def test_an_explicit_price_is_the_price(runpod: FakeRunPod, launch: Launch, capsys):
    assert launch("runpod", "--price", "1", "--max-cost", "5") == 0
    body = runpod.made(CREATE)[0].body
    assert "budget.price_usd_per_hour=1.0" in body["args"] and "SEQUENCE_BUDGET__PRICE_USD_PER_HOUR" not in body["env"]
    assert "the run may use 5.0 h, 5.00 USD" in capsys.readouterr().err


def test_the_book_knows_when_the_machine_must_be_gone(runpod: FakeRunPod, launch: Launch, tmp_path):
    assert launch("runpod", "--max-cost", "4.4", "--max-hours", "100") == 0
    (entry,) = Book(tmp_path).entries()
    assert entry.max_hours == pytest.approx(4.4 / 0.44 + 0.5 + 1)
    assert entry.price_usd_per_hour == 0.44 and time.time() - entry.asked_t < 900 and entry.store == "s3://runs/x"


def test_more_variables_than_runpod_takes_are_refused(runpod: FakeRunPod, launch: Launch, monkeypatch, capsys):
    names = [f"EXTRA_{number}" for number in range(50)]
    for name in names:
        monkeypatch.setenv(name, "value")
    assert launch("runpod", *(part for name in names for part in ("--secret", name))) == 78
    assert "50" in capsys.readouterr().err and not runpod.made(CREATE)


def test_volume_registry_cloud_cuda_and_disk_are_sent_as_the_schema_has_them(runpod: FakeRunPod, launch: Launch):
    runpod.gpus = [gpu_type(A40, "A40", 0.4, {"EU-SE-1": "HIGH"}) | {"community": True}]
    runpod.gpus[0]["maxCount"]["community"] = 2
    runpod.gpus[0]["price"]["community"] = 0.2
    options = (
        "--volume",
        "vol1",
        "--registry",
        "reg1",
        "--cloud",
        "COMMUNITY",
        "--min-cuda",
        "12.8",
        "--disk-gb",
        "77",
    )
    assert launch("runpod", *options, "--gpu-count", "2") == 0
    body = runpod.made(CREATE)[0].body
    assert body["mounts"] == {"network": [{"volumeId": "vol1", "path": "/workspace"}]}
    assert (body["registry"], body["cloud"], body["disk"]) == ("reg1", "COMMUNITY", 77)
    assert body["gpu"] == {"id": A40, "count": 2, "minCudaVersion": "12.8"}
    asked = runpod.made("GET /catalog/gpus")[0].query
    assert asked == {
        **{"include": "AVAILABILITY", "product": "POD", "count": "2"},
        **{"cloud": "COMMUNITY", "minCudaVersion": "12.8"},
    }
    assert body["env"]["SEQUENCE_BUDGET__PRICE_USD_PER_HOUR"] == "0.4"


def test_a_spot_pod_is_asked_for_with_no_more_than_the_listed_price_and_its_grace_is_said(runpod, launch, capsys):
    assert launch("runpod", "--spot", "--gpu-count", "2") == 0
    (call,) = runpod.made("POST /graphql")
    rented = call.body["variables"]["input"]
    assert rented["bidPerGpu"] == 0.44 and rented["gpuCount"] == 2
    (pod,) = runpod.pods.values()
    assert pod.spot and pod.body["env"]["AWS_SECRET_ACCESS_KEY"] == SECRETS["AWS_SECRET_ACCESS_KEY"]
    assert "5 seconds" in capsys.readouterr().err


@settings(max_examples=25)
@given(st.text(), st.text())
def test_nothing_that_varies_is_part_of_a_graphql_query(name, value):
    order = Order(f"run{name}", name, (value,), A40, spot=True)
    sent = spot.body(order, Offer(A40, "", 0.44), {name: value})
    assert sent["query"] == spot.QUERY and sent["variables"]["input"]["env"] == [{"key": name, "value": value}]


def test_a_spot_pod_that_cannot_be_had_is_a_refused_candidate_and_a_wrong_request_is_not(
    runpod, launch, monkeypatch, capsys
):
    runpod.gpus[0]["dataCenters"] = []
    assert launch("runpod", "--spot") == 69
    assert "no longer any instances" in capsys.readouterr().err
    runpod.gpus = [gpu_type(A40, "A40", 0.44, {"EU-SE-1": "HIGH", "CA-MTL-1": "LOW"})]
    monkeypatch.setenv("MY_SETTING", "plain-name-secret-value")
    wrong = Reply(200, {"errors": [{"message": 'Variable "$input" got invalid value "plain-name-secret-value"'}]})
    runpod.faults.append(Fault("POST /graphql", wrong))
    assert launch("runpod", "--spot", "--secret", "MY_SETTING") == 78 and not runpod.pods
    assert "got invalid value" in (said := capsys.readouterr().err) and "plain-name" not in said


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ({"message": "Something went wrong. Please try again later or contact support."}, 0, "went wrong"),
        ({"message": "x", "extensions": {"code": "INTERNAL_SERVER_ERROR"}}, 0, "INTERNAL_SERVER_ERROR"),
        ({"message": "This machine does not have the resources to deploy your pod."}, 69, "none of 1 offers"),
        ({"message": "Your account balance is too low."}, 69, "balance"),
        ({"message": "no", "extensions": {"code": "UNAUTHENTICATED"}}, 78, "UNAUTHENTICATED"),
    ],
    ids=str,
)
def test_an_error_of_graphql_that_is_no_known_refusal_may_have_come_after_the_rent(
    runpod, launch, capsys, error, code, words
):
    rent = runpod._graphql
    rented = code == 0

    def refused(body):
        if rented:
            rent(body)
        return Reply(200, {"errors": [error], "data": {"podRentInterruptable": None}})

    runpod._graphql = refused
    assert launch("runpod", "--spot", "--region", "EU-SE-1") == code
    assert words in capsys.readouterr().err
    assert len(runpod.pods) == rented and len(runpod.made("POST /graphql")) == 1


def test_a_spot_pod_is_not_rented_without_the_cuda_version_that_was_asked_for(runpod: FakeRunPod, launch, capsys):
    for flags in ((), ("--dry-run",)):
        assert launch("runpod", "--spot", "--min-cuda", "12.8", *flags) == 78
        assert "leave out --spot or --min-cuda" in capsys.readouterr().err
    assert not runpod.made("POST") and not runpod.made("GET /catalog")


def test_a_spot_pod_whose_answer_is_lost_is_found_by_its_name(runpod: FakeRunPod, launch: Launch):
    runpod.faults.append(Fault("POST /graphql", lost=True))
    assert launch("runpod", "--spot") == 0
    assert len(runpod.pods) == 1 and len(runpod.made("POST /graphql")) == 1


def test_a_dataset_that_is_here_is_sent_to_the_store_and_one_that_is_not_goes_by_its_name(
    runpod, launch, real_data, capsys
):
    here = ("--dataset", "ADA-EUR_1H", "--data-dir", str(real_data))
    _, body, said = shown(launch, capsys, *here)
    url = shlex.split(body["args"])[1]
    assert url.startswith("s3://runs/x/datasets/") and "ADA-EUR_1H" in url.rpartition("/")[2]
    assert "would send ADA-EUR_1H" in said
    _, body, said = shown(launch, capsys, "--dataset", "XRP-USDT_1H", "--data-dir", "/nowhere")
    assert shlex.split(body["args"])[1] == "XRP-USDT_1H" and "fetched on the machine" in said
    assert launch("runpod", "--dry-run", "--offline", "--dataset", "XRP-USDT_1H", "--data-dir", "/nowhere") == 66


def test_every_option_of_the_shared_list_is_there_and_none_that_the_provider_lacks(capsys):
    assert main(["launch", "runpod", "--help"]) == 0
    assert {"--dataset", "--store", "--max-cost", "--spot", "--volume", "--wait"} <= set(
        capsys.readouterr().out.split()
    )
    assert main(["launch", "lambda", "--help"]) == 0
    assert "--spot" not in capsys.readouterr().out


def test_data_that_nobody_has_are_refused_before_a_machine_is_rented(runpod: FakeRunPod, launch: Launch, capsys):
    unknown = ("--dataset", "XYZ-EUR_1H", "--set", "dataset.asset_class=crypto")
    assert launch("runpod", *unknown) == 66
    assert "no service is known to have it" in capsys.readouterr().err and not runpod.calls


def test_a_profile_of_the_cpu_on_a_rented_gpu_is_told_and_a_choice_is_not(runpod, launch, capsys):
    hint = "works on the CPU"
    assert hint in shown(launch, capsys)[2]
    for choice in (("--set", "compute.device=cuda"), ("--set", "compute.device=cpu"), ("--profile", "standard")):
        assert hint not in shown(launch, capsys, *choice)[2]


def test_a_ceiling_of_minutes_is_told_in_minutes(runpod: FakeRunPod, launch: Launch, capsys):
    assert launch("runpod", "--max-hours", "0.05") == 0
    assert (
        "the run may use 3 min, 0.02 USD; with starting and stopping the machine is ended after 1.6 h, 0.68 USD"
        in capsys.readouterr().err
    )
