"""Who may speak to the server: a Host that is ours, no page of another site, a token where others can reach it.

A page on the internet can make a browser call 127.0.0.1, under a name of its own too (DNS rebinding): both are told by
their headers. Pure ASGI, so that nothing is read from who is turned away.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 2**20  # bytes of a request
COOKIE = "taughtby"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class AccessPolicy:
    """What is let in: requests to one of the `names`, or to any address if there is a `token`, which they must have."""

    host: str
    names: frozenset[str]
    token: str | None = None

    def address(self, port: int) -> str:
        """What a person opens."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)
        whole = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        return f"{whole}?token={self.token}" if self.token else whole

    def refuses(self, headers: Headers, query: str) -> tuple[int, str, str] | None:
        """Status, what is wrong and what to do; None for who may come in."""
        host = _name(headers.get("host", ""))
        if not (host in self.names or (self.token and _is_address(host))):
            return 403, "this name is not the server's", "open the address that taughtby serve printed"
        origin = headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != headers.get("host"):
            return 403, "the request comes from another site", "open the address that taughtby serve printed"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _visits(headers):
            return 403, "the request comes from another site", "open the address that taughtby serve printed"
        if self.token and not self._knows(headers, query):
            return 401, "the token is missing or wrong", "open the whole address that taughtby serve printed"
        return None

    def _knows(self, headers: Headers, query: str) -> bool:
        given = [*parse_qs(query).get("token", []), _cookie(headers)]
        given.append(headers.get("authorization", "").removeprefix("Bearer "))
        return any(secrets.compare_digest(text.encode(), str(self.token).encode()) for text in given)


def access_policy(host: str) -> AccessPolicy:
    """The door of a server that listens at `host`: without a token only where nobody else can reach it."""
    own = frozenset({"localhost", "127.0.0.1", "::1"})
    if host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        return AccessPolicy(host, own | {host.lower()})
    return AccessPolicy(host, own | {host.lower(), socket.gethostname().lower()}, secrets.token_urlsafe(24))


class SecurityMiddleware:
    """The door as ASGI middleware: turns away, limits bodies, and sets the headers that keep a page shut."""

    def __init__(self, app: ASGIApp, door: AccessPolicy) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or answer why not."""
        if scope["type"] != "http":
            # the server's own start and end; nothing here speaks over web sockets
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, query = Headers(scope=scope), scope["query_string"].decode("latin-1")
        refused = self.door.refuses(headers, query)
        length = headers.get("content-length", "0")
        if refused is None and (not length.isdigit() or int(length) > LARGEST or "transfer-encoding" in headers):
            refused = 413, "the request is too large", "shorten the texts"
        if refused:
            await _say(send, *refused)
            return
        fresh = "token=" in query and self.door.token is not None

        async def shut(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].decode().lower() not in SAFE]
                message["headers"] = [*kept, *_pairs(SAFE)]
                if fresh:
                    cookie = f"{COOKIE}={self.door.token}; HttpOnly; SameSite=Strict; Path=/"
                    message["headers"] += _pairs({"set-cookie": cookie})
            await send(message)

        await self.app(scope, receive, shut)


async def _say(send: Send, status: int, what: str, do: str) -> None:
    body = json.dumps({"what": what, "got": None, "do": do}).encode()
    headers = {**SAFE, "content-type": "application/json", "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": _pairs(headers)})
    await send({"type": "http.response.body", "body": body})


def _pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _name(host: str) -> str:
    """A Host header without its port."""
    inner = host.rsplit(":", 1)[0] if ":" in host and not host.endswith("]") else host
    return inner.strip("[]").lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _visits(headers: Headers) -> bool:
    """Whether a person follows a link to the page: that shows it to them, and to nobody else."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _cookie(headers: Headers) -> str:
    try:
        held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return held.value if held else ""
