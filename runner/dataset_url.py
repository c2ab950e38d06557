"""Dataset files kept in a store, for a machine that has none: sent from one, brought to another, proved the same.

    <store>/datasets/<12 hex>/<NAME>.<ending>    the files of one command's datasets, their bytes as they are
    <store>/datasets/<12 hex>/files.json         file name -> sha256; written last, its own digest is the folder's name

So a URL `<store>/datasets/<12 hex>/<NAME>.<ending>` says which bytes are meant,
and what lies beside it are the further assets of the same portfolio.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.assets import DatasetName
from configs.errors import ConfigError, DatasetNotFoundError, StoreError
from configs.files import atomic_path, digest, read_json, sha256_file, write_json
from runner.say import say
from runner.store.objects import KeyMissingError, ObjectStore

FOLDER = "datasets"
LISTING = "files.json"
KEPT = ".datasets"
"""Below the runs directory: what was brought to this machine, a folder for each of the store's."""
EXPECTED = (
    f"expected <store>/{FOLDER}/<12 hex>/<NAME>.<ending>, as `launch` makes it, for example "
    f"s3://bucket/prefix/{FOLDER}/0123456789ab/ADA-EUR_1H.parquet; of any other file give the path"
)
URL_PATTERN = re.compile(rf"(?P<store>.+)/{FOLDER}/(?P<hex>[0-9a-f]{{12}})/(?P<file>(?P<name>[^/.]+)\.[a-z.]+)")
FILE_PATTERN = re.compile(r"[A-Za-z0-9_-]+\.[a-z.]+")
ENDING_PATTERN = re.compile(r"(\.(csv|tsv|txt|json)(?=\.(gz|zip)$))?\.[A-Za-z]+$", re.IGNORECASE)


@dataclass(frozen=True)
class DatasetUrl:
    """The parts of a URL of a dataset."""

    url: str
    store: str
    hex: str
    name: str
    """Of the dataset."""
    file: str

    @classmethod
    def parse(cls, url: str) -> DatasetUrl:
        """Take a URL apart; nothing is sent.

        Raises:
            ConfigError: it is of another form, or its file name is no dataset's.
        """
        match = URL_PATTERN.fullmatch(url)
        if match is None:
            raise ConfigError(f"--dataset {url!r} is no URL of a dataset; {EXPECTED}")
        try:
            DatasetName.parse(match["name"])
        except ConfigError as error:
            raise ConfigError(f"--dataset {url!r}: {error}; {EXPECTED}") from error
        return cls(url, match["store"], match["hex"], match["name"], match["file"])

    def path(self, runs_dir: Path) -> Path:
        """Where the file lies on this machine, once brought."""
        return runs_dir.absolute() / KEPT / self.hex / self.file


def is_url(dataset: str) -> bool:
    """A dataset given by a URL, right or wrong."""
    return "://" in dataset


def url_of(store_url: str, files: Mapping[str, Path]) -> str:
    """What `send` will return; sends nothing."""
    return f"{store_url.rstrip('/')}/{_folder(_listing_of(files))}/{next(iter(_named(files)))}"


def send(store_url: str, files: Mapping[str, Path]) -> str:
    """Put the files of datasets into a store, where they are not there yet, and return the URL of the first.

    Args:
        store_url: as `--store` has it.
        files: dataset name -> its file, the run's own first.

    Raises:
        ConfigError: the store's URL is wrong, or a file's name does not say of which kind it is.
        StoreError: the store cannot be used.
    """
    from runner.store.open import open_store  # heavy: what speaks to stores

    store, listing = open_store(store_url, on_retry=_tell), _listing_of(files)
    folder = _folder(listing)
    there = {stat.key: stat.size_bytes for stat in store.list(f"{folder}/")}
    for file, path in _named(files).items():
        size_bytes = path.stat().st_size
        if there.get(f"{folder}/{file}") != size_bytes:
            say(f"sending {path} to {store.url}/{folder}/{file}, {size_bytes / 1e6:,.1f} MB")
            store.put(f"{folder}/{file}", path)
    if f"{folder}/{LISTING}" not in there:
        store.put(f"{folder}/{LISTING}", json.dumps(listing, indent=1, sort_keys=True).encode())
    return url_of(store_url, files)


def bring(url: str, runs_dir: Path, *, offline: bool = False) -> Path:
    """The file of a URL, with those beside it, below the runs directory; what is here whole is not fetched again.

    Raises:
        ConfigError: the URL is wrong.
        DatasetNotFoundError: the store has no such file, or it is not here and may not be fetched.
        StoreError: the store cannot be used, or what it has are other bytes.
    """
    meant = DatasetUrl.parse(url)
    path = meant.path(runs_dir)
    if _is_whole(path.parent, meant):
        return path
    if offline:
        raise DatasetNotFoundError(f"{url} is not here, and --offline forbids to fetch it")
    from runner.store.open import open_store  # heavy: what speaks to stores

    store = open_store(meant.store, on_retry=_tell)
    try:
        listing = _listing(store, meant)
        for file, sha256 in listing.items():
            _fetch(store, f"{FOLDER}/{meant.hex}/{file}", path.parent / file, sha256)
    except KeyMissingError as error:
        raise DatasetNotFoundError(f"no dataset {url}: {error}; launch again, which sends it anew") from error
    write_json(path.parent / LISTING, listing)
    return path


def _tell(call: str, error: StoreError, wait_s: float) -> None:
    say(f"{call}: {error}; again in {wait_s:.0f} s")


def _named(files: Mapping[str, Path]) -> dict[str, Path]:
    """File name in the store -> file here: a dataset's name with the ending that says of which kind the file is."""
    return {f"{name}{_ending(path)}": path for name, path in files.items()}


def _listing_of(files: Mapping[str, Path]) -> dict[str, str]:
    return {file: sha256_file(path) for file, path in _named(files).items()}


def _folder(listing: dict[str, str]) -> str:
    return f"{FOLDER}/{digest(listing)[:12]}"


def _listing(store: ObjectStore, meant: DatasetUrl) -> dict[str, str]:
    key = f"{FOLDER}/{meant.hex}/{LISTING}"
    try:
        listing = json.loads(store.get(key)[0])
    except ValueError:
        listing = None
    if not _is_listing(listing, meant.hex):
        raise StoreError(f"{store.url}/{key} is damaged: it is not what {meant.hex} names; {_mend(meant.hex)}")
    if meant.file not in listing:
        raise DatasetNotFoundError(f"no dataset {meant.url}; there are {', '.join(listing)}")
    return dict(listing)


def _fetch(store: ObjectStore, key: str, path: Path, sha256: str) -> None:
    if path.is_file() and sha256_file(path) == sha256:
        return
    say(f"fetching {store.url}/{key}")
    with atomic_path(path) as temporary:
        store.get_to(key, temporary)
        found = sha256_file(temporary)
        if found != sha256:
            folder = key.split("/")[1]
            raise StoreError(
                f"{store.url}/{key} is damaged: sha256 {found[:12]}, expected {sha256[:12]}; {_mend(folder)}"
            )


def _is_whole(folder: Path, meant: DatasetUrl) -> bool:
    try:
        listing = read_json(folder / LISTING)
        return (
            _is_listing(listing, meant.hex)
            and meant.file in listing
            and all(sha256_file(folder / file) == sha256 for file, sha256 in listing.items())
        )
    except (OSError, ValueError):
        return False


def _is_listing(listing: object, hex: str) -> bool:
    """What the folder's name stands for; no file name in it leads out of the folder."""
    return (
        isinstance(listing, dict)
        and all(isinstance(sha256, str) and FILE_PATTERN.fullmatch(file) for file, sha256 in listing.items())
        and digest(listing)[:12] == hex
    )


def _mend(hex: str) -> str:
    return f"remove {FOLDER}/{hex} from the store and launch again, which sends it anew"


def _ending(path: Path) -> str:
    found = ENDING_PATTERN.search(path.name)
    if found is None:
        raise ConfigError(f"{path} has no ending such as .csv.gz or .parquet that says what it is; rename it")
    return found.group().lower()
