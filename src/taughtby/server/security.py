"""Access to the server: its own host names only, no requests from other sites, and a token if others can reach it.

A page on the internet can make a browser send requests to 127.0.0.1, also under a host name of its own (DNS rebinding).
Both are recognised by their headers. This is plain ASGI, so that the body of a refused request is never read.
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

MAX_BODY = 2**20  # bytes of a request
COOKIE = "taughtby"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class AccessPolicy:
    """The requests that are accepted.

    Attributes:
        host: The address that the server listens on.
        hosts: Host names that a request may name.
        token: The token that every request needs; with a token, a request may also name any IP address.
    """

    host: str
    hosts: frozenset[str]
    token: str | None = None

    def address(self, port: int) -> str:
        """Return the address to open in a browser."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)
        url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        return f"{url}?token={self.token}" if self.token else url

    def refusal(self, headers: Headers, query: str) -> tuple[int, str, str] | None:
        """Return status, what is wrong and what to do; None if the request is accepted."""
        host = _host_name(headers.get("host", ""))
        if not (host in self.hosts or (self.token and _is_address(host))):
            return 403, "this host name is not the server's", "open the address that taughtby serve printed"
        origin = headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != headers.get("host"):
            return 403, "the request comes from another site", "open the address that taughtby serve printed"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_navigation(headers):
            return 403, "the request comes from another site", "open the address that taughtby serve printed"
        if self.token and not self._has_token(headers, query):
            return 401, "the token is missing or wrong", "open the whole address that taughtby serve printed"
        return None

    def _has_token(self, headers: Headers, query: str) -> bool:
        tokens = [*parse_qs(query).get("token", []), _cookie(headers)]
        tokens.append(headers.get("authorization", "").removeprefix("Bearer "))
        return any(secrets.compare_digest(token.encode(), str(self.token).encode()) for token in tokens)


def access_policy(host: str) -> AccessPolicy:
    """Return the policy of a server that listens on `host`: on a loopback address it needs no token."""
    loopback = frozenset({"localhost", "127.0.0.1", "::1"})
    if host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        return AccessPolicy(host, loopback | {host.lower()})
    return AccessPolicy(host, loopback | {host.lower(), socket.gethostname().lower()}, secrets.token_urlsafe(24))


class SecurityMiddleware:
    """ASGI middleware that refuses requests, limits their size and sets the security headers of every response."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why it is refused."""
        if scope["type"] != "http":
            # startup and shutdown; web sockets are not accepted
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, query = Headers(scope=scope), scope["query_string"].decode("latin-1")
        refusal = self.policy.refusal(headers, query)
        length = headers.get("content-length", "0")
        if refusal is None and (not length.isdigit() or int(length) > MAX_BODY or "transfer-encoding" in headers):
            refusal = 413, "the request is too large", "shorten the texts"
        if refusal:
            await _send_refusal(send, *refusal)
            return
        sets_cookie = "token=" in query and self.policy.token is not None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if pair[0].decode().lower() not in SECURITY_HEADERS]
                message["headers"] = [*others, *_pairs(SECURITY_HEADERS)]
                if sets_cookie:
                    cookie = f"{COOKIE}={self.policy.token}; HttpOnly; SameSite=Strict; Path=/"
                    message["headers"] += _pairs({"set-cookie": cookie})
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _send_refusal(send: Send, status: int, what: str, do: str) -> None:
    body = json.dumps({"what": what, "got": None, "do": do}).encode()
    headers = {**SECURITY_HEADERS, "content-type": "application/json", "content-length": str(len(body))}
    await send({"type": "http.response.start", "status": status, "headers": _pairs(headers)})
    await send({"type": "http.response.body", "body": body})


def _pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _host_name(host: str) -> str:
    """The Host header without its port."""
    inner = host.rsplit(":", 1)[0] if ":" in host and not host.endswith("]") else host
    return inner.strip("[]").lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_navigation(headers: Headers) -> bool:
    """Whether the browser opens the page itself, which another site cannot read."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _cookie(headers: Headers) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""
