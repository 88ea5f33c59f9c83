"""Heads: what may pass, what is refused, what is cut out. Pure; called only with heads that llhttp accepted.

llhttp in its strict mode has refused bare LF, folded lines, space before a colon, control characters, two
Content-Lengths and Content-Length beside Transfer-Encoding. What it lets through and we do not: other protocols
and versions, several spaces in the request line, codings other than chunked, missing or doubled Host, targets
that are no path, paths that climb (`/v1/../x`).

Lines that stay are forwarded verbatim: order, case, duplicates and spacing. Cut out are the hop-by-hop ones
(RFC 9110 7.6.1). A valid `Transfer-Encoding: chunked` line stays where it is, because the body leaves us chunked.
Host is forwarded as the client sent it (nginx's default would send the upstream's name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.exchange import Headers
from proxy.relay.refusal import Refusal, RefusedError

# First letters are spelled out: a case-insensitive alternation is tried in full at every line, twice as slow.
_HOP = rb"[Kk](?i:eep-alive)|[Pp](?i:roxy-)[^:\r]*|[Tt](?i:e|railer|ransfer-encoding)|[Uu](?i:pgrade)"
_LINE = rb"\r\n([Cc](?i:onnection|ontent-length)|" + _HOP + rb"%b):[ \t]*([^\r]*)"
_REQUEST_SPECIAL = re.compile(_LINE.replace(b"%b", rb"|[Ee](?i:xpect)|[Hh](?i:ost)|[Xx](?i:-parity-mirror)"))
_REPLY_SPECIAL = re.compile(_LINE.replace(b"%b", b""))
_REQUEST_LINE = re.compile(rb"([A-Z-]+) (/[!\"$-~]*) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?=[ \r]|$)")
_HOST = re.compile(
    rb"[A-Za-z0-9_~!$&'()*+,;=%-]+(?:\.[A-Za-z0-9_~!$&'()*+,;=%-]+)*\.?(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_BAD_ESCAPE = re.compile(rb"(?i)%(?![0-9a-f]{2})|%00")
_CLIMBS = re.compile(rb"(?i)(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?=/|\\|%2f|%5c|$)")
_REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})  # as nginx does
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})  # Connection cannot strip these
_HARMLESS_OPTIONS = frozenset({b"", b"close", b"keep-alive"})

NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)


@dataclass(slots=True)  # not frozen: setting ten fields through object.__setattr__ would cost more than the parsing
class RequestHead:
    """One accepted request head. `forward` is what the candidate gets, blank line included."""

    method: bytes
    target: bytes
    path: bytes
    http11: bool
    forward: bytes
    length: int
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    opted_out: bool


@dataclass(slots=True)
class ReplyHead:
    """One reply head. `kept` is what the client gets, without what ends it."""

    status: int
    kept: bytes
    framing: int
    length: int
    reusable: bool


def parse_request(head: bytes, *, authority: bytes, max_headers: int) -> RequestHead:
    """Reads a head that llhttp accepted; `head` ends with the CRLF of its last line, without the blank one.

    `authority` is sent as Host for HTTP/1.0 clients that gave none.

    Raises:  RefusedError.
    """
    if head.count(b"\r\n") > max_headers + 1:
        raise RefusedError(Refusal.LARGE_HEAD)
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise RefusedError(Refusal.BAD_TARGET)
    method, target, minor = line.groups()
    http11 = minor == b"1"
    length, hosts, coded, expects, opted_out = -1, 0, False, False, False
    options: list[bytes] = []
    kept: list[bytes] = []
    at = 0
    for special in _REQUEST_SPECIAL.finditer(head):
        name = special[1].lower()
        if name in _FRAMING and b"\t" in special[0]:
            raise RefusedError(Refusal.BAD_FRAMING)  # nginx takes the tab for a part of the value
        if name == b"host":
            hosts += 1
            if _HOST.fullmatch(special[2].rstrip(b" ")) is None:
                raise RefusedError(Refusal.BAD_HOST)
        elif name == b"content-length":
            length = _length(special[2], length)
        elif name == b"x-parity-mirror":
            opted_out |= special[2].strip().lower() == b"off"
        elif name == b"transfer-encoding":
            if coded or length >= 0 or not http11:
                raise RefusedError(Refusal.BAD_FRAMING)
            if special[2].rstrip(b" ").lower() != b"chunked":
                raise RefusedError(Refusal.BAD_CODING)
            coded = True
        else:
            if name == b"connection":
                options += [option.strip().lower() for option in special[2].split(b",")]
            elif name == b"expect":
                expects = http11 and special[2].strip().lower() == b"100-continue"
            kept.append(head[at : special.start()])
            at = special.end()
    if coded and length >= 0:
        raise RefusedError(Refusal.BAD_FRAMING)
    if hosts > 1 or (http11 and not hosts):
        raise RefusedError(Refusal.BAD_HOST)
    if method in _REFUSED_METHODS:
        raise RefusedError(Refusal.BAD_METHOD)
    kept.append(head[at:])
    forward = b"".join(kept)
    if not _HARMLESS_OPTIONS.issuperset(options):
        forward = _without(forward, options)
    if not http11:
        forward = _as_http11(forward, line.end(), b"" if hosts else authority)
    keep_alive = b"close" not in options and (http11 or b"keep-alive" in options)
    forward += b"\r\n"
    path = _path(target)
    return RequestHead(method, target, path, http11, forward, max(length, 0), coded, keep_alive, expects, opted_out)


def parse_reply(head: bytes, *, to_head_request: bool, to_http11: bool) -> ReplyHead | None:
    """Reads a reply head that llhttp accepted; `head` ends before the last CRLFCRLF.

    Returns None when it is no reply that may be passed on: another protocol, a body of ambiguous length, an
    unknown coding, a switch of protocols.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        return None
    status, http11 = int(line[2]), line[1] == b"1"
    length, coded = -1, False
    options: list[bytes] = []
    kept: list[bytes] = []
    at = 0
    bodiless = to_head_request or status in (204, 304)
    for special in _REPLY_SPECIAL.finditer(head):
        name = special[1].lower()
        if name == b"content-length":
            if length >= 0 or _DIGITS.fullmatch(special[2].rstrip(b" ")) is None:
                return None
            length = int(special[2])
            continue
        if name == b"transfer-encoding":
            if coded or not http11 or special[2].rstrip(b" ").lower() != b"chunked":
                return None
            coded = True
            if to_http11 and not bodiless:
                continue
        elif name == b"connection":
            options += [option.strip().lower() for option in special[2].split(b",")]
        kept.append(head[at : special.start()])
        at = special.end()
    if (coded and length >= 0) or status == 101:
        return None
    kept.append(head[at:])
    forward = b"".join(kept)
    if not _HARMLESS_OPTIONS.issuperset(options):
        forward = _without(forward, options)
    if not http11:
        forward = b"HTTP/1.1" + forward[8:]
    framing = NO_BODY if bodiless else CHUNKED if coded else LENGTH if length >= 0 else UNTIL_CLOSE
    reusable = framing != UNTIL_CLOSE and b"close" not in options and (http11 or b"keep-alive" in options)
    return ReplyHead(status, forward, framing, max(length, 0), reusable)


def pick_headers(head: bytes, names: frozenset[bytes]) -> Headers:
    """The headers of an accepted head whose lower-case name is in `names`, names lower-cased, in order."""
    found = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and (name := name.lower()) in names:
            found.append((name, value.strip(b" \t")))
    return tuple(found)


def _length(value: bytes, seen: int) -> int:
    value = value.rstrip(b" ")
    if seen >= 0 or _DIGITS.fullmatch(value) is None:
        raise RefusedError(Refusal.BAD_FRAMING)
    return int(value)


def _path(target: bytes) -> bytes:
    path = target.partition(b"?")[0]
    if b"%" in path and _BAD_ESCAPE.search(path):
        raise RefusedError(Refusal.BAD_TARGET)
    # An engine or a proxy behind us might resolve them, and so leave the paths that we allow.
    if (b"." in path or b"%" in path) and _CLIMBS.search(path):
        raise RefusedError(Refusal.BAD_TARGET)
    return path


def _without(head: bytes, options: list[bytes]) -> bytes:
    named = frozenset(options) - _FRAMING - _HARMLESS_OPTIONS
    first, *lines = head.split(b"\r\n")
    return b"\r\n".join([first, *(line for line in lines if line.partition(b":")[0].lower() not in named)])


def _as_http11(head: bytes, line_end: int, authority: bytes) -> bytes:
    host = b"Host: %b\r\n" % authority if authority else b""
    return head[: line_end - 3] + b"1\r\n" + host + head[line_end:]
