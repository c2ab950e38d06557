import hashlib
import json
from pathlib import Path

import pytest

from configs.errors import ConfigError, DatasetNotFoundError, StoreError
from runner.dataset_url import DatasetUrl, bring, is_url, send, url_of
from runner.session import Ask, dataset_name, resolve_ask
from tests.cli import cli

HEX = "0123456789ab"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "binance ada eur.CSV.GZ"
    path.write_bytes(bytes(range(256)) * 40)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_was_sent_is_brought_byte_for_byte_under_the_dataset_s_name(file, store, tmp_path):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    brought = bring(url, tmp_path / "runs")
    assert brought.read_bytes() == file.read_bytes()
    assert brought.name == "ADA-EUR_1H.csv.gz"
    assert url.startswith(f"{store.as_uri()}/datasets/") and DatasetUrl.parse(url).name == "ADA-EUR_1H"


def test_the_folder_is_named_by_the_content_alone(file, store, tmp_path):
    # by hand: the digest of the listing without blanks
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    listing = '{"ADA-EUR_1H.csv.gz":"' + sha256 + '"}'
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    assert url.split("/")[-2] == hashlib.sha256(listing.encode()).hexdigest()[:12]
    file.write_bytes(b"other bars")
    assert send(store.as_uri(), {"ADA-EUR_1H": file}) != url


def test_a_portfolio_s_files_come_together(file, store, tmp_path):
    other = tmp_path / "ETH-EUR_1H.parquet"
    other.write_bytes(b"ether")
    brought = bring(send(store.as_uri(), {"ADA-EUR_1H": file, "ETH-EUR_1H": other}), tmp_path / "runs")
    assert brought.name == "ADA-EUR_1H.csv.gz"
    assert (brought.parent / "ETH-EUR_1H.parquet").read_bytes() == b"ether"


def test_the_url_is_known_before_anything_is_sent(file, store):
    url = url_of(f"{store.as_uri()}/", {"ADA-EUR_1H": file})
    assert not store.exists()
    assert send(store.as_uri(), {"ADA-EUR_1H": file}) == url


def test_sending_again_sends_nothing_and_mends_what_is_missing(file, store, capsys):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    assert "sending" in capsys.readouterr().err
    assert send(store.as_uri(), {"ADA-EUR_1H": file}) == url
    assert "sending" not in capsys.readouterr().err
    (kept,) = store.rglob("ADA-EUR_1H.csv.gz")
    kept.unlink()
    assert send(store.as_uri(), {"ADA-EUR_1H": file}) == url
    assert kept.read_bytes() == file.read_bytes()


def test_what_was_brought_needs_the_store_no_more(file, store, tmp_path):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    first = bring(url, tmp_path / "runs")
    store.rename(tmp_path / "gone")
    assert bring(url, tmp_path / "runs", offline=True) == first


def test_a_file_damaged_here_is_brought_again(file, store, tmp_path):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    bring(url, tmp_path / "runs").write_bytes(b"half a fi")
    assert bring(url, tmp_path / "runs").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["ADA-EUR_1H.csv.gz", "files.json"])
def test_other_bytes_in_the_store_are_refused(file, store, tmp_path, name):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    (kept,) = store.rglob(name)
    kept.write_bytes(b"{}" * (file.stat().st_size // 2))
    with pytest.raises(StoreError, match="damaged.*launch again") as caught:
        bring(url, tmp_path / "runs")
    assert caught.value.exit_code == 74
    assert not list((tmp_path / "runs").rglob("*.csv.gz"))


def test_no_listing_leads_out_of_its_folder(file, store, tmp_path):
    listing = {"../../../evil.csv": hashlib.sha256(b"x").hexdigest(), "ADA-EUR_1H.csv": "0" * 64}
    text = json.dumps(listing, sort_keys=True, separators=(",", ":"))
    folder = store / "datasets" / hashlib.sha256(text.encode()).hexdigest()[:12]
    folder.mkdir(parents=True)
    (folder / "files.json").write_text(text)
    with pytest.raises(StoreError, match="damaged"):
        bring(f"{folder.as_uri()}/ADA-EUR_1H.csv", tmp_path / "runs")


def test_a_dataset_that_is_not_there_is_not_found(file, store, tmp_path):
    url = send(store.as_uri(), {"ADA-EUR_1H": file})
    with pytest.raises(DatasetNotFoundError, match="launch again"):
        bring(url.replace(DatasetUrl.parse(url).hex, HEX), tmp_path / "runs")
    with pytest.raises(DatasetNotFoundError, match=r"there are ADA-EUR_1H\.csv\.gz"):
        bring(url.replace("ADA-EUR", "BTC-EUR"), tmp_path / "runs")
    with pytest.raises(DatasetNotFoundError, match="--offline"):
        bring(url, tmp_path / "elsewhere", offline=True)


@pytest.mark.parametrize(
    "wrong",
    [
        "https://example.org/ADA-EUR_1H.csv",
        "s3://bucket/ADA-EUR_1H.csv",
        f"s3://bucket/datasets/{HEX}/ADA-EUR_1H",
        f"s3://bucket/datasets/{HEX}/prices.csv",
        f"s3://bucket/datasets/{HEX.upper()}/ADA-EUR_1H.csv",
        f"ftp://bucket/datasets/{HEX}/ADA-EUR_1H.csv",
        f"s3://key:secret@bucket/datasets/{HEX}/ADA-EUR_1H.csv",
    ],
)
def test_a_wrong_url_is_bad_configuration(wrong, tmp_path):
    assert is_url(wrong)
    with pytest.raises(ConfigError, match="expected"):
        bring(wrong, tmp_path)


def test_the_url_says_the_name_and_nothing_else_may(tmp_path):
    url = f"s3://bucket/datasets/{HEX}/ADA-EUR_1H_20240101-20241231.parquet"
    assert dataset_name(url) == dataset_name(url, "ADA-EUR", "1H") == "ADA-EUR_1H_20240101-20241231"
    with pytest.raises(ConfigError, match="leave out"):
        dataset_name(url, "BTC-EUR")


def test_a_file_without_an_ending_is_not_sent(store, tmp_path):
    (tmp_path / "bars").write_bytes(b"bars")
    with pytest.raises(ConfigError, match="ending"):
        send(store.as_uri(), {"ADA-EUR_1H": tmp_path / "bars"})


def test_the_exit_code_says_what_is_wrong_with_a_url(tmp_path):
    missing = cli("plan", "--dataset", f"{tmp_path.as_uri()}/datasets/{HEX}/ADA-EUR_1H.csv", cwd=tmp_path)
    wrong = cli("plan", "--dataset", f"{tmp_path.as_uri()}/ADA-EUR_1H.csv", cwd=tmp_path)
    assert (missing.returncode, wrong.returncode) == (66, 78), missing.stderr + wrong.stderr
    assert "launch again" in missing.stderr and "expected <store>/datasets/" in wrong.stderr


def test_a_run_is_the_same_by_url_as_by_its_file_and_remembers_the_url(real_data, store, tmp_path):
    path = next(real_data.rglob("ADA-EUR_1H.*"))
    url = send(store.as_uri(), {"ADA-EUR_1H": path})
    by_file = resolve_ask(Ask(dataset=str(path), runs_dir=tmp_path / "a"))
    by_url = resolve_ask(Ask(dataset=url, runs_dir=tmp_path / "b"))
    assert by_url.run.run_id == by_file.run.run_id
    assert by_url.facts["digest"] == by_file.facts["digest"]
    assert by_url.place == url and url in by_url.command
    assert Path(by_url.facts["path"]).is_relative_to(tmp_path / "b")


@pytest.mark.slow
def test_a_run_begun_by_url_goes_on_where_nothing_but_its_store_is_left(real_data, seaweed, tmp_path, monkeypatch):
    seaweed.use(monkeypatch)
    store = seaweed.store_url()
    url = send(store, {"ADA-EUR_1H": real_data / "ADA-EUR_1H.csv.gz"})
    rest = ("--store", store, "--skip-preflight", "--no-push")
    begun = cli("--dataset", url, "--until", "prepare", *rest, "--runs-dir", tmp_path / "a", "--json", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    run_id = json.loads(begun.stdout)["run_id"]
    again = ("--resume", run_id, *rest, "--dry-run", "--json")
    resumed = cli(*again, "--runs-dir", tmp_path / "b", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["units"]["prepare"] == "done"
    assert list((tmp_path / "b").rglob("ADA-EUR_1H.csv.gz"))
    missing = url.replace(DatasetUrl.parse(url).hex, HEX)
    assert cli("plan", "--dataset", missing, "--runs-dir", tmp_path / "b", cwd=tmp_path).returncode == 66
