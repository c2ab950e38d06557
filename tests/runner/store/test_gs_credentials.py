"""A service account handed over as text: what Google's own library makes of it, on a real server on loopback."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from configs.errors import ConfigError
from configs.secrets import redact
from runner.store.objects import KeyMissingError
from runner.store.open import open_store

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TOKEN = "issued-by-the-test"


class Google(BaseHTTPRequestHandler):
    """Gives a token for an assertion that the account signed; has no object."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        signed, _, signature = form["assertion"][0].rpartition(".")
        KEY.public_key().verify(_bytes(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        self.server.claims = json.loads(_bytes(signed.split(".")[1]))
        self._answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})

    def do_GET(self) -> None:
        self.server.authorized.append(self.headers.get("Authorization"))
        self._answer(404, {"error": {"code": 404, "message": "No such object"}})

    def log_message(self, *_said: object) -> None:
        pass

    def _answer(self, code: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def google():
    with ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        server.authorized = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def account(endpoint: str) -> str:
    pem = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info = {"type": "service_account", "project_id": "p", "private_key_id": "k", "private_key": pem}
    return json.dumps(info | {"client_email": "runner@p.example", "client_id": "1", "token_uri": f"{endpoint}/token"})


def test_a_service_account_given_as_text_signs_what_is_sent(google, monkeypatch):
    endpoint = f"http://127.0.0.1:{google.server_port}"
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    monkeypatch.setenv("GOOGLE_CREDENTIALS_JSON", account(endpoint))
    with pytest.raises(KeyMissingError):
        open_store("gs://bucket/prefix").get("key")
    assert google.authorized == [f"Bearer {TOKEN}"]
    assert google.claims["iss"] == "runner@p.example"
    assert "devstorage.read_write" in google.claims["scope"]


@pytest.mark.parametrize("text", ["no json", "[]", '"text"', "{}", account("https://x").replace("MII", "???")])
def test_what_is_no_service_account_is_refused_without_being_quoted(text, monkeypatch):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GOOGLE_CREDENTIALS_JSON", text)
    with pytest.raises(ConfigError, match="GOOGLE_CREDENTIALS_JSON is not the content") as caught:
        open_store("gs://bucket/prefix").get("key")
    assert "PRIVATE" not in str(caught.value) and caught.value.__cause__ is None


def test_its_text_is_redacted(monkeypatch):
    text = account("https://token.example")
    monkeypatch.setenv("GOOGLE_CREDENTIALS_JSON", text)
    assert "runner@p.example" not in redact(f"environment: {text}")
