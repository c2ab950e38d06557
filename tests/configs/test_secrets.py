"""The secrets filter: what must go, and what must stay as it is."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.secrets import REDACTED, is_secret_name, one_line, redact, redact_values, secret_values

PASSWORD = "c0rrect-h0rse+battery/staple="
AWS_ID = "AKIA" + "Q3EGIKXZ7WLM2BVD"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "zzEXAMPLE1"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq83vEjRWeJCr\n-----END RSA PRIVATE KEY-----"
TOKENS = {
    "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github, fine": "github_pat_" + "11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ",
    "gitlab": "glpat-" + "x9Kd_2mQ-8rTzLw4vBnY",
    "hugging face": "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi",
    "runpod": "rpa_" + "7GH2KD93JSLQ0ZMX6CVB5NW1T4YR8EUA",
    "w&b": "wandb_v1_" + "Kx82mZpQ7LtRw93bNcVd",
    "aws id": AWS_ID,
    "slack": "xoxb-" + "2345678901-abcdefghij",
    "google": "AIza" + "SyD4x9Lm2Qp7Rt0Vw3Zb6Nc1Kf8Hg5JyA2e",
    "web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "pem": PEM,
    "pem in json": json.dumps({"private_key": PEM + "\n"})[17:-4],
}
WITHIN = {
    "bearer": ("Authorization: Bearer {}", "s3cr3t-t0k3n.value_here"),
    "bare bearer": ("sent 'bearer {}' to it", "abcdef0123456789abcdef"),
    "basic": ("authorization: Basic {}", "dXNlcjpwYXNzd29yZA=="),
    "basic in json": ('{{"Authorization": "Basic {}"}}', "dXNlcjpwYXNzd29yZA=="),
    "url": ("fatal: cannot read https://runner:{}@git.example.org/repo.git", "hunter2secret"),
    "url, token alone": ("https://{}@git.example.org/repo.git", "0123456789abcdef0123456789"),
    "aws file": ("aws_secret_access_key = {}\n", AWS_SECRET),
    "aws environment": ("export AWS_SECRET_ACCESS_KEY={}", AWS_SECRET),
    "aws json": ('{{"SecretAccessKey": "{}"}}', AWS_SECRET),
    "presigned": ("https://bucket.example.org/x?X-Amz-Credential={}&X-Amz-Date=20261121", "AKIDEXAMPLE%2F20261121"),
    "signature": ("...&X-Amz-Signature={}", hashlib.sha256(b"x").hexdigest()),
    "presigned, google": ("...&X-Goog-Signature={}", "8a7b6c5d4e3f"),
    "password": ("login with password={} failed", "hunter2!"),
    "service account": ('{{"private_key": "{}"}}', "MIIEpAIBAAKCAQEA7"),
    "chat webhook": ("https://hooks.slack.com/services/{}", "T0123/B4567/abcDEF"),
}
ORDINARY = (
    "ADA-EUR_1H-quick-0eed546f",
    hashlib.sha256(b"blob").hexdigest(),
    hashlib.sha1(b"commit").hexdigest(),
    f"blobs/00000003/{hashlib.sha256(b'blob').hexdigest()}.zst",
    "runs/ADA-EUR_1H-quick-0eed546f/stages/ppo/seed-0/checkpoints/25000/manifest.json",
    "close 0.123456 above high 0.123455 at row 17491; fee 10 bps = 0.001",
    "s3://bucket/prefix and gs://bucket/prefix and file:///mnt/a:b/c",
    "https://github.com/owner/repo.git#readme, ssh://git@example.org/repo.git",
    "bearer of bad news; bearer instruments; the token count is 12; the key is on the left",
    "cache_key=5f8f0c5a, password required, api_key: missing, private key unreadable",
    "runtime.stop_grace_s=30 --set ppo.timesteps=491520 2026-11-21T08:15:00+00:00",
    "task-runner disk-usage risk-adjusted hf_hub xoxo",
)


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_of_a_known_form_goes_and_its_surroundings_stay(token):
    assert redact(f"before {token} after") == f"before {REDACTED} after"


@pytest.mark.parametrize(("frame", "secret"), WITHIN.values(), ids=WITHIN)
def test_a_secret_goes_and_what_names_it_stays(frame, secret):
    assert redact(frame.format(secret)) == frame.format(REDACTED)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "GITHUB_PAT"),
        *("SEQUENCE_WEBHOOK_URL", "SEQUENCE_GIT_TOKEN", "PGPASSWORD", "RUNPOD_API_KEY", "db_password", "DOCKER_AUTH"),
        *("GOOGLE_CREDENTIALS_JSON", "LAMBDA_API_KEY"),
    ],
)
def test_names_that_say_secret_are_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS_FILE", "SSH_AUTH_SOCK", "AWS_REGION", "PATH"),
        *("TOKENIZERS_PARALLELISM", "KEYBOARD", "XAUTHORITY", "AUTHOR", "MONKEY", "PWD", "HTTPS_PROXY", "HOME"),
    ],
)
def test_names_of_places_and_settings_are_not(name):
    assert not is_secret_name(name)


def test_values_of_secret_variables_go_however_they_are_written(monkeypatch):
    monkeypatch.setenv("SEQUENCE_GIT_TOKEN", 'a"b&c/d e-0123456789')
    for written in ('a"b&c/d e-0123456789', r"a\"b&c/d e-0123456789", "a&quot;b&amp;c/d e-0123456789"):
        assert redact(f"<{written}>") == f"<{REDACTED}>"
    assert redact("a%22b%26c%2Fd%20e-0123456789") == REDACTED


def test_a_short_secret_tears_no_hash_apart(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "abc123")
    assert redact("0fabc123ee and abc123, abc123") == f"0fabc123ee and {REDACTED}, {REDACTED}"


@pytest.mark.parametrize("value", ["false", "default", "1234567", "", "redacted"])
def test_settings_and_numbers_under_a_secret_name_are_no_secrets(value):
    assert secret_values({"AUTH_MODE_KEY": value}) == ()


def test_a_path_that_exists_is_no_secret_but_a_key_that_begins_like_one_is(tmp_path):
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "/Zx" + AWS_SECRET}
    assert secret_values(environment) == ("/Zx" + AWS_SECRET,)


def test_values_are_searched_at_every_depth_and_keep_their_form():
    value = {"says": ["ok", {"deep": f"key {AWS_ID}"}], "n": 1.5, "none": None, "flag": True, "api_key": "abc"}
    clean = {"says": ["ok", {"deep": f"key {REDACTED}"}], "n": 1.5, "none": None, "flag": True, "api_key": REDACTED}
    assert redact_values(value) == clean
    assert redact_values({"cache_key": "5f8f"}) == {"cache_key": "5f8f"}


pieces = st.sampled_from([*TOKENS.values(), *(frame.format(secret) for frame, secret in WITHIN.values()), REDACTED])


@given(st.lists(pieces | st.text(max_size=30) | st.sampled_from(["://", ":", "@", "=", '"', PASSWORD]), max_size=8))
@settings(max_examples=300)
def test_doing_it_twice_changes_nothing_more(parts):
    once = redact("".join(parts))
    assert redact(once) == once


@given(st.lists(st.sampled_from([*TOKENS.values(), PASSWORD]), min_size=1, max_size=4), st.text(max_size=40))
@settings(max_examples=100)
def test_no_secret_survives_among_other_text(secrets, between):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORE_PASSWORD", PASSWORD)
        text = redact(f" {between} ".join(["", *secrets, ""]))
    assert not [secret for secret in secrets if secret in text]


@given(
    st.floats(allow_nan=False)
    | st.integers()
    | st.binary(min_size=32, max_size=32).map(bytes.hex)
    | st.uuids().map(str)
)
def test_numbers_and_digests_survive(value):
    text = json.dumps({"close": value})
    assert redact(text) == text


@given(st.text())
def test_text_keeps_its_length_where_nothing_is_redacted(text):
    found = redact(text)
    assert found == text or REDACTED in found


def test_long_text_with_many_beginnings_of_secrets_is_no_trap():
    """A pattern that backtracks would be busy for hours here."""
    beginnings = "://a:" * 100_000 + "authorization: " * 20_000 + "aws_secret_access_key" * 20_000 + "eyJ" * 100_000
    assert redact(beginnings) == beginnings


def test_one_line_hides_a_secret_that_stands_where_the_line_is_cut():
    assert one_line(ValueError("cannot  read\n\tit"), limit=11) == "cannot read"
    assert one_line(f"{'x' * 290} {AWS_ID}") == f"{'x' * 290} {REDACTED}"[:300]
    assert len(one_line("x" * 400, limit=None)) == 400
