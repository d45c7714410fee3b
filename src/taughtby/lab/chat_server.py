"""Requests to an OpenAI-compatible server, with retries.

The API key comes from the environment, is sent over HTTPS or to this machine only, and is never written anywhere.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any, Literal

import httpx2

from taughtby.errors import OptionError

KEY = "OPENAI_API_KEY"
KEY_SENT = "sent over https or to this machine only"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # environment variables, also in capitals
TRIES, BACKOFF = 4, 0.5  # attempts; seconds before the second one, doubled before each further one
MAX_WAIT = 60.0  # maximum seconds before the next try, if the server sends Retry-After
CONNECT = 5.0  # timeout in seconds for a connection
CONCURRENCY = 8  # parallel requests


class NoReplyError(Exception):
    """The last try of a request failed too; `kind` is `hung` or `unreachable`."""

    def __init__(self, kind: Literal["hung", "unreachable"], reason: str) -> None:
        super().__init__(reason)
        self.kind: Literal["hung", "unreachable"] = kind
        self.reason = reason


class RejectedError(Exception):
    """The server rejected a request, which another try cannot change."""


def parse_address(url: str) -> httpx2.URL | None:
    """Parse the address of a server; None if it is not one over HTTP."""
    try:
        address = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError):
        return None
    return address if address.scheme in ("http", "https") and address.host else None


def completions_address(address: httpx2.URL) -> httpx2.URL:
    """Return the address for requests; `/chat/completions` is appended to one that does not end with `/completions`."""
    path = address.path.rstrip("/")
    return address.copy_with(path=path if path.endswith("/completions") else f"{path}/chat/completions")


def open_client(address: httpx2.URL, limit: float) -> httpx2.Client:
    """Return a client that sends the key, and gives each try `limit` seconds; requests to this machine use no proxy.

    Raises:
        OptionError: The key has characters that cannot be sent, or a proxy cannot be used.
    """
    local = address.host in THIS_MACHINE
    # never send the key unencrypted to another machine, which a proxy may be
    key = _read_key() if local or address.scheme == "https" else ""
    certificates = httpx2.create_ssl_context()  # those of the environment, also for this machine
    try:
        return httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(limit, connect=min(limit, CONNECT)),
            verify=certificates,
            trust_env=not local,
        )
    except (ImportError, ValueError, httpx2.InvalidURL):
        names = sorted(name for name in os.environ if name.lower() in PROXIES)
        do = "unset it or give an HTTP proxy; a SOCKS proxy needs: pip install socksio"
        raise OptionError("the environment's proxy cannot be used", got=", ".join(names), do=do) from None


def _read_key() -> str:
    """The key from the environment, without blanks at its ends; empty if there is none."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        do = f"set {KEY} again: the key alone, on one line"
        raise OptionError(f"the key in {KEY} has characters that no key has", do=do)
    return key


def redact(text: str, client: httpx2.Client) -> str:
    """Replace the key that a client sends."""
    key = client.headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "…") if key else text


def post(client: httpx2.Client, address: httpx2.URL, body: dict[str, Any]) -> httpx2.Response:
    """Send a request up to `TRIES` times, until the server replies with status 200.

    Raises:
        NoReplyError: The server was busy, failed or took too long each time.
        RejectedError: It replied with another status.
    """
    # UTF-8 cannot encode lone surrogates; `backslashreplace` writes them as JSON escapes
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = {"Content-Type": "application/json"}
    failure, wait = NoReplyError("unreachable", "never asked"), 0.0
    for attempt in range(TRIES):
        if attempt:
            time.sleep(max(wait, BACKOFF * 2 ** (attempt - 1)))
        wait = 0.0
        try:
            response = client.post(address, content=content, headers=headers)
        except httpx2.ConnectTimeout as fault:
            failure = NoReplyError("unreachable", redact(f"no connection: {fault}", client))
        except httpx2.TimeoutException:
            failure = NoReplyError("hung", f"no reply in time, tried {attempt + 1} times")
        except httpx2.RequestError as fault:
            failure = NoReplyError("unreachable", redact(str(fault), client) or type(fault).__name__)
        else:
            if response.status_code == 200:
                return response
            reason = _error_text(response, client)
            if response.status_code != 429 and response.status_code < 500:
                raise RejectedError(reason)
            failure, wait = NoReplyError("unreachable", reason), _retry_after(response)
    raise failure


def _error_text(response: httpx2.Response, client: httpx2.Client) -> str:
    """Status and text of a reply, without the key."""
    text = re.sub(r"\s+", " ", redact(response.text, client))[:200]
    return f"{response.status_code}: {text}"


def _retry_after(response: httpx2.Response) -> float:
    """The seconds of a `Retry-After` header; 0 for a date, or without one."""
    seconds = response.headers.get("Retry-After", "")
    return min(MAX_WAIT, float(seconds)) if seconds.isdecimal() else 0.0
