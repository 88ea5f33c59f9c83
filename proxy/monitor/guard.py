"""Who may call the control port: it shows prompts and replies and can pause the mirror.

With a token: every path but /healthz needs it, as a bearer token, or as the password of HTTP basic authentication: so
a person's browser can open the page, and Flagger, whose webhooks cannot set a header, can carry it in their URL
(`http://gate:TOKEN@host/...`: Go's client sends it as that header). Such a URL stands in an object that many may
read, so there may be a second token, which only asks the gate: it opens no pair, no page and no act.

Without a token the port is on loopback only; then the Host header must name loopback, or any web site could read the
pairs by rebinding its own name to 127.0.0.1. A request that changes something must not come from another site, with
or without a token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware; plain ASGI because BaseHTTPMiddleware buffers and hides disconnects."""

    def __init__(
        self, app: ASGIApp, token: str | None, gate_token: str | None, response_headers: dict[str, str]
    ) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._gate_token = None if gate_token is None else gate_token.encode()
        self._response_headers = [(name.encode(), value.encode()) for name, value in response_headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = [(name, value) for name, value in self._response_headers if name not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, dressed)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if scope["path"] not in OPEN_PATHS:
            if self._token is not None and not self._may(scope["path"], headers.getlist("authorization")):
                return _challenge()
            if self._token is None and not names_loopback(headers.get("host", "")):
                return PlainTextResponse("without a token the control port answers loopback names only\n", 421)
        if scope["method"] not in _SAFE_METHODS and not _same_site(headers):
            return PlainTextResponse("a request from another site changes nothing here\n", 403)
        return None

    def _may(self, path: str, given: list[str]) -> bool:
        """True when a token was given that opens this path."""
        shown = _token_in(given)
        if shown is None or self._token is None:
            return False
        if hmac.compare_digest(shown, self._token):
            return True
        return asks_gate(path) and self._gate_token is not None and hmac.compare_digest(shown, self._gate_token)


def _challenge() -> PlainTextResponse:
    """A header for each scheme: of several in one, Chromium reads the first alone, and asks nobody for a password."""
    response = PlainTextResponse("the control port needs its token\n", 401)
    response.headers.append("www-authenticate", 'Basic realm="parity", charset="UTF-8"')
    response.headers.append("www-authenticate", 'Bearer realm="parity"')
    return response


def asks_gate(path: str) -> bool:
    """True for the paths that only ask for the verdict. /gate/reset is not one."""
    return path == "/gate" or path.startswith("/gate/v1/")


def _token_in(authorization: list[str]) -> bytes | None:
    """The token of the one Authorization header: a bearer token or a basic password."""
    if len(authorization) != 1:
        return None
    scheme, _, credentials = authorization[0].partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "bearer":
        return credentials.encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that only this machine reaches."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_loopback(host_header: str) -> bool:
    """True when a Host header (with or without a port) names loopback."""
    try:
        name = urlsplit(f"//{host_header}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _same_site(headers: Headers) -> bool:
    """False when a browser says that another site sent this. What is no browser says neither header."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:  # an origin that cannot be read is not ours
        return False
