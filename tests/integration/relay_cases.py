"""Raw HTTP/1.1 exchanges, well-formed and malformed, for the relay beside nginx. Deterministic: no randomness.

Each case is what one client sends on one connection, in pieces. `N` in the bytes stands for the case's number, in
the query of every target, so that what reaches the upstream can be told apart. `stricter` says why the relay may
refuse what nginx serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LIMIT_BYTES = 100_000  # of a body, on both sides
BARE_LF = "a bare LF ends no line here: a front end that thinks so and a back end that does not can be played off"
LLHTTP = "llhttp knows a closed set of methods, and printable bytes in targets and values"
ONE_SPACE = "one space between the parts of a request line (RFC 9112 3)"
ORIGIN_FORM = "only paths are served"
NO_09 = "HTTP/0.9 has no status, no length and no headers"


@dataclass(frozen=True)
class Case:
    """One client's bytes."""

    name: str
    pieces: tuple[bytes, ...]
    stricter: str = ""
    half_close: bool = False

    def numbered(self, number: int) -> list[bytes]:
        """The pieces with the case's number in place."""
        whole = b"".join(self.pieces).replace(b"case=N", b"case=%d" % number)
        grown = len(str(number)) - 1
        cuts, length = [], 0
        for piece in self.pieces[:-1]:
            length += len(piece)
            cuts.append(length + grown * b"".join(self.pieces)[:length].count(b"case=N"))
        return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


H = b"Host: a\r\n"


def _line(method: bytes = b"POST", path: bytes = b"/v1/x?case=N", version: bytes = b"HTTP/1.1") -> bytes:
    return b"%b %b %b\r\n" % (method, path, version)


def _post(headers: bytes, body: bytes = b"", line: bytes | None = None) -> bytes:
    return (line or _line()) + H + headers + b"\r\n" + body


def _chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


CL = b"Content-Length: %d\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
GET = b"GET /v1/x?case=N HTTP/1.1\r\n" + H + b"\r\n"


def cases() -> list[Case]:
    """All cases, in a fixed order, none twice."""
    found = [
        *_plain(),
        *_split(),
        *_pipelined(),
        *_lines(),
        *_headers(),
        *_lengths(),
        *_codings(),
        *_chunked(),
        *_early(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


def _plain() -> Iterator[Case]:
    for method in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD"):
        yield Case(f"{method!r} without a body", (_line(method) + H + b"\r\n",))
        yield Case(f"{method!r} with a length", (_line(method) + H + CL % 3 + b"\r\nabc",))
        yield Case(f"{method!r} chunked", (_line(method) + H + TE + b"\r\n" + _chunks(b"abc", b"de"),))
    for size in (0, 1, 2, 1023, 4096, 65_535, 65_536, LIMIT_BYTES):
        yield Case(f"length {size}", (_post(CL % size, bytes(size)),))
        yield Case(f"chunked {size}", (_post(TE, _chunks(bytes(size)) if size else _chunks()),))
    for size in (LIMIT_BYTES + 1, 2 * LIMIT_BYTES):
        yield Case(f"over the limit by length {size}", (_post(CL % size, bytes(size)),))
        yield Case(
            f"over the limit by chunks {size}", (_post(TE, _chunks(bytes(LIMIT_BYTES), bytes(size - LIMIT_BYTES))),)
        )
    yield Case("over the limit, nothing sent", (_post(CL % (1 << 40)),))
    for name, body in {
        "invalid UTF-8": b"\xff\xfe\x80",
        "malformed JSON": b'{"a":',
        "zeros": b"\0" * 100,
        "looks like a request": GET,
        "looks like chunks": _chunks(b"abc"),
        "ends with blank lines": b"a\r\n\r\n\r\n\r\n",
    }.items():
        yield Case(f"body: {name}", (_post(CL % len(body), body),))
        yield Case(f"body in chunks: {name}", (_post(TE, _chunks(body)),))
    for version in (b"HTTP/1.0", b"HTTP/1.1"):
        for connection in (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Close, x\r\n"):
            request = _line(version=version) + H + connection + CL % 2 + b"\r\nhi"
            yield Case(f"{version!r} {connection!r}", (request,))
            yield Case(f"{version!r} {connection!r} twice", (request * 2,))
    yield Case("HTTP/1.0 without Host", (_line(b"GET", version=b"HTTP/1.0") + b"\r\n",))
    yield Case("expect", (_post(b"Expect: 100-continue\r\n" + CL % 2, b"hi"),))
    yield Case("expect, body later", (_post(b"Expect: 100-continue\r\n" + CL % 2), b"hi"))
    yield Case("expect, chunked, body later", (_post(b"expect: 100-CONTINUE\r\n" + TE), _chunks(b"hi")))
    yield Case("expect something else", (_post(b"Expect: the-unexpected\r\n" + CL % 2, b"hi"),))
    yield Case("upgrade", (_post(b"Connection: upgrade\r\nUpgrade: h2c\r\n" + CL % 2, b"hi"),))
    yield Case(
        "upgrade, then another", (_post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + CL % 2, b"hi" + GET),)
    )
    yield Case("blank lines first", (b"\r\n\r\n" + GET,))
    yield Case("blank lines between", (GET + b"\r\n\r\n" + GET,))


def _split() -> Iterator[Case]:
    request = _post(b"X-Long: " + b"y" * 40 + b"\r\n" + CL % 5, b"hello")
    for at in range(1, len(request), 7):
        yield Case(f"split at {at}", (request[:at], request[at:]))
    chunked = _post(TE, _chunks(b"hello", b"world!"))
    for at in range(len(_post(TE)) - 6, len(chunked), 2):
        yield Case(f"chunked split at {at}", (chunked[:at], chunked[at:]))


def _pipelined() -> Iterator[Case]:
    kinds = {
        "get": GET,
        "length": _post(CL % 3, b"abc"),
        "chunked": _post(TE, _chunks(b"abc", b"d")),
        "empty": _post(CL % 0),
        "empty chunked": _post(TE, _chunks()),
        "trailer": _post(TE, b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"),
    }
    for one, first in kinds.items():
        for two, second in kinds.items():
            yield Case(f"pipelined {one}, {two}", (first + second,))
    yield Case("pipelined 20", (b"".join(kinds.values()) * 3 + GET * 2,))
    yield Case("pipelined, the second malformed", (GET + b"GET /v1/x?case=N HTTP/1.1\r\nHost : a\r\n\r\n" + GET,))
    yield Case("pipelined, the second unknown", (GET + b"GET /x?case=N HTTP/1.1\r\n" + H + b"\r\n" + GET,))
    yield Case("close, then another", (GET.replace(H, H + b"Connection: close\r\n") + GET,))
    yield Case("pipelined, cut at the end", (GET + GET[:20],))


def _lines() -> Iterator[Case]:
    end = H + b"\r\n"
    for path in (
        b"/v1/?case=N",
        b"/v1/a/b/c?case=N",
        b"/v1/x?case=N&a=%20%zz&b=[]",
        b"/v1//x?case=N",
        b"/v1/x%20y?case=N",
        b"/v1/x?case=N?a?b",
        b"/v1/a.b?case=N",
        b"/v1/...?case=N",
        b"/v1/x;p=1?case=N",
        b"/v1/~x?case=N",
        b"/v1/@x?case=N",
        b"/v1/x?case=N&a=../..",
        b"/v1/x?case=N&" + b"a" * 3000,
    ):
        yield Case(f"target {path[:40]!r}", (_line(b"GET", path) + end,))
    for path in (
        b"/",
        b"/other?case=N",
        b"/v1?case=N",
        b"/v2/x?case=N",
        b"x?case=N",
        b"*",
        b"?case=N",
        b"/v1/%00?case=N",
        b"/v1/%zz?case=N",
        b"/v1/%2?case=N",
        b"/v1/../x?case=N",
        b"/v1/%2e%2e/x?case=N",
        b"/../../x?case=N",
        b"/v1/\0?case=N",
        b"/v1/\x01?case=N",
        b"/v1/\x7f?case=N",
    ):
        yield Case(f"bad target {path!r}", (_line(b"GET", path) + end,))
    for path in (b"/v1/./x?case=N", b"/v1/a/../b?case=N", b"/v1/a/%2e%2e/b?case=N", b"/v1/a/.?case=N"):
        yield Case(f"climbing target {path!r}", (_line(b"GET", path) + end,), "no path that another server may resolve")
    yield Case("fragment", (_line(b"GET", b"/v1/x?case=N#frag") + end,), ORIGIN_FORM)
    yield Case("high bytes in the target", (_line(b"GET", b"/v1/\xc3\xa9?case=N") + end,), LLHTTP)
    yield Case("absolute target", (_line(b"GET", b"http://a/v1/x?case=N") + end,), ORIGIN_FORM)
    yield Case("absolute target, https", (_line(b"GET", b"https://a/v1/x?case=N") + end,), ORIGIN_FORM)
    for version in (
        b"HTTP/2.0",
        b"HTTP/1.2",
        b"HTTP/3",
        b"HTTP/1",
        b"HTTP/1.1.1",
        b"HTTP/01.1",
        b"http/1.1",
        b"RTSP/1.0",
        b"RTSP/1.1",
        b"ICE/1.0",
        b"HTP/1.1",
        b"HTTP /1.1",
        b"HTTP/ 1.1",
        b"HTTP/1.1x",
        b"HTTP/11",
        b"HTTP/9.9",
        b"HTTP/0.9",
        b"HTTP/1.10",
    ):
        stricter = "only HTTP/1.0 and 1.1 exist" if version in (b"HTTP/1.2", b"HTTP/1.10") else ""
        yield Case(f"version {version!r}", (_line(b"GET", version=version) + end,), stricter)
        yield Case(f"version {version!r} with a body", (_line(version=version) + H + CL % 2 + b"\r\nhi",), stricter)
    yield Case("no version", (b"GET /v1/x?case=N\r\n" + end,), NO_09)
    yield Case("no version, no headers", (b"GET /v1/x?case=N\r\n",), NO_09)
    yield Case("HTTP/2 preface", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",))
    yield Case("two spaces before the target", (b"GET  /v1/x?case=N HTTP/1.1\r\n" + end,), ONE_SPACE)
    yield Case("two spaces before the version", (b"GET /v1/x?case=N  HTTP/1.1\r\n" + end,), ONE_SPACE)
    yield Case("space after the version", (b"GET /v1/x?case=N HTTP/1.1 \r\n" + end,), ONE_SPACE)
    yield Case("tab in the request line", (b"GET\t/v1/x?case=N HTTP/1.1\r\n" + end,))
    yield Case("space first", (b" GET /v1/x?case=N HTTP/1.1\r\n" + end,))
    yield Case("space in the target", (b"GET /v1/x y?case=N HTTP/1.1\r\n" + end,))
    for method in (b"get", b"GE(T", b"G@T", b"", b"GET:", b"G\0T", b"CONNECT", b"TRACE"):
        yield Case(f"method {method!r}", (_line(method) + end,))
    for method in (b"FOO", b"G_T", b"GE-T"):
        yield Case(f"method {method!r}", (_line(method) + end,), LLHTTP)
    yield Case("TLS hello", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),))
    yield Case("garbage", (b"\xff" * 100,))
    yield Case("a long line", (b"GET /v1/x?case=N&" + b"a" * 200_000 + b" HTTP/1.1\r\n" + end,))
    yield Case("bare LF throughout", (GET.replace(b"\r\n", b"\n"),), BARE_LF)
    yield Case("bare LF after the request line", (b"GET /v1/x?case=N HTTP/1.1\n" + end,), BARE_LF)
    yield Case("bare CR after the request line", (b"GET /v1/x?case=N HTTP/1.1\r" + end,))


def _headers() -> Iterator[Case]:
    first = b"GET /v1/x?case=N HTTP/1.1\r\n"
    for header in (
        b"X: y",
        b"X:y",
        b"X:  y  ",
        b"X:\ty",
        b"X:",
        b"X: ",
        b"x-UPPER: y",
        b"X_under: y",
        b"X.dot: y",
        b"X: a\r\nX: b",
        b"X: \xc3\xa9",
        b"X: a:b",
        b'X: "q"',
        b"X1: y",
        b"Cookie: a=b\r\nCookie: c=d",
        b"Accept-Encoding: gzip, br",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"X: " + b"y" * 3000,
        b"Content-Type: a\r\nContent-Type: b",
    ):
        yield Case(f"header {header[:30]!r}", (first + H + header + b"\r\n\r\n",))
    for header in (
        b"X : y",
        b"X\t: y",
        b" X: y",
        b"X y: z",
        b": y",
        b"X\0: y",
        b"X: a\0b",
        b"X\x01: y",
        b"X\x7f: y",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
    ):
        yield Case(f"bad header {header!r}", (first + H + header + b"\r\n\r\n",))
        yield Case(f"bad first header {header!r}", (first + header + b"\r\n" + H + b"\r\n",))
    for header in (b"X: a\x01b", b"X: a\x7fb", b"X: a\x0bb", b"X: a\x1bb"):
        yield Case(f"control in a value {header!r}", (first + H + header + b"\r\n\r\n",), LLHTTP)
    for header in (b"X", b"X\xff: y", b"X(: y", b"X/: y", b'X": y', b"X{}: y", b"X@: y", b"X=: y"):
        yield Case(
            f"odd name {header!r}", (first + H + header + b"\r\n\r\n",), "a header's name is a token (RFC 9110 5.1)"
        )
    yield Case("bare LF after a header", (first + H + b"X: y\nY: z\r\n\r\n",), BARE_LF)
    yield Case("bare LF ends the head", (first + b"Host: a\r\n\n",), BARE_LF)
    yield Case(
        "bare CR in a value", (first + H + b"X: a\rb\r\n\r\n",), "a bare CR is no part of a value (RFC 9112 2.2)"
    )
    yield Case("CR CR LF", (first + H + b"X: a\r\r\n\r\n",), "a bare CR is no part of a value (RFC 9112 2.2)")
    for name, hosts in {
        "no host": b"",
        "two hosts": b"Host: a\r\nHost: a\r\n",
        "two differing hosts": b"Host: a\r\nhost: b\r\n",
        "empty host": b"Host: \r\n",
        "slash in host": b"Host: a/b\r\n",
        "space in host": b"Host: a b\r\n",
        "NUL in host": b"Host: a\0b\r\n",
        "dots in host": b"Host: a..b\r\n",
        "dot first in host": b"Host: .a\r\n",
        "tab before host": b"Host:\ta\r\n",
        "tab after host": b"Host: a\t\r\n",
        "folded host": b"Host:\r\n a\r\n",
    }.items():
        stricter = "a host has no empty label" if name == "dot first in host" else ""
        yield Case(name, (first + hosts + b"\r\n",), stricter)
    for host in (b"a:80", b"127.0.0.1:8000", b"[::1]:80", b"example.com.", b"A.B-c_d", b"a:"):
        yield Case(f"host {host!r}", (first + b"Host: %b\r\n\r\n" % host,))
    yield Case("a huge header", (first + H + b"X: " + b"y" * 200_000 + b"\r\n\r\n",))
    yield Case(
        "many huge headers", (first + H + b"".join(b"X%d: %b\r\n" % (n, b"y" * 8000) for n in range(40)) + b"\r\n",)
    )


def _lengths() -> Iterator[Case]:
    for value in (
        b"",
        b" ",
        b"-1",
        b"+3",
        b"3.0",
        b"0x3",
        b"3 3",
        b"3,3",
        b"3, 3",
        b"a",
        b"3a",
        b"\xb3",
        b"99999999999999999999",
        b"18446744073709551619",
        b"9223372036854775808",
        b"1e1",
        b"3;",
        b'"3"',
        b"3\x0b",
        b"3\0",
    ):
        yield Case(f"length {value!r}", (_post(b"Content-Length: %b\r\n" % value, b"abc" + GET),))
    for value in (b"03", b"003", b"3 ", b"3\t"):
        yield Case(f"odd length {value!r}", (_post(b"Content-Length: %b\r\n" % value, b"abc" + GET),))
    yield Case("tab before a length", (_post(b"Content-Length:\t3\r\n", b"abc" + GET),))
    for second in (b"3", b"4", b"0", b""):
        yield Case(f"two lengths 3 and {second!r}", (_post(CL % 3 + b"content-length: %b\r\n" % second, b"abc" + GET),))
    for name in (b"Content-Length ", b" Content-Length", b"Content-Length\t", b"Content\0-Length"):
        yield Case(f"spelling {name!r}", (_post(name + b": 3\r\n", b"abc"),))
    yield Case("length below the body", (_post(CL % 1, b"a" + GET),))


def _codings() -> Iterator[Case]:
    body = _chunks(b"abc")
    for value in (b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked "):
        yield Case(f"coding {value!r}", (_post(b"Transfer-Encoding: %b\r\n" % value, body + GET),))
    yield Case("coding with a tab", (_post(b"Transfer-Encoding:\tchunked\r\n", body),))
    for value in (
        b"",
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked, chunked",
        b"chunked,",
        b",chunked",
        b"xchunked",
        b"chunkedx",
        b"chunked;q=1",
        b'"chunked"',
        b"\x0bchunked",
        b"chunked\0",
        b"chunked identity",
        b"compress, chunked",
        b"chun ked",
    ):
        yield Case(f"coding {value!r}", (_post(b"Transfer-Encoding: %b\r\n" % value, body + GET),))
    both = {"length first": CL % 3 + TE, "coding first": TE + CL % 3, "zero length": CL % 0 + TE}
    for name, headers in both.items():
        yield Case(f"both, {name}", (_post(headers, body + GET),))
    yield Case("two codings", (_post(TE + TE, body + GET),))
    yield Case("two codings, differing", (_post(TE + b"Transfer-Encoding: identity\r\n", body + GET),))
    yield Case("chunked in HTTP/1.0", (_line(version=b"HTTP/1.0") + H + TE + b"\r\n" + body,))
    for name in (b"Transfer-Encoding ", b" Transfer-Encoding", b"Transfer-Encoding\t", b"Transfer\0-Encoding"):
        yield Case(f"spelling {name!r}", (_post(name + b": chunked\r\n", body),))
    yield Case("spelling with an underscore", (_post(b"Transfer_Encoding: chunked\r\n" + CL % 3, b"abc"),))
    yield Case("folded coding", (_post(b"Transfer-Encoding:\r\n chunked\r\n", body),))
    yield Case("coding named by Connection", (_post(b"Connection: transfer-encoding\r\n" + TE, body),))
    yield Case("length named by Connection", (_post(b"Connection: content-length\r\n" + CL % 3, b"abc"),))


def _chunked() -> Iterator[Case]:
    good = {
        "upper hex": b"A\r\n0123456789\r\n0\r\n\r\n",
        "leading zeros": b"0003\r\nabc\r\n000\r\n\r\n",
        "extension": b"3;a=b\r\nabc\r\n0;c\r\n\r\n",
        "quoted extension": b'3;a="b"\r\nabc\r\n0\r\n\r\n',
        "trailers": b"3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        "many": _chunks(*[b"x"] * 500),
    }
    for name, body in good.items():
        yield Case(f"chunks: {name}", (_post(TE, body + GET),))
    bad = {
        "no size": b"\r\nabc\r\n0\r\n\r\n",
        "not hex": b"g\r\nabc\r\n0\r\n\r\n",
        "negative": b"-3\r\nabc\r\n0\r\n\r\n",
        "signed": b"+3\r\nabc\r\n0\r\n\r\n",
        "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
        "overflow": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "overflow to three": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
        "too long": b"5\r\nabc\r\n0\r\n\r\n",
        "too short": b"2\r\nabc\r\n0\r\n\r\n",
        "no CRLF after data": b"3\r\nabc0\r\n\r\n",
        "space first": b" 3\r\nabc\r\n0\r\n\r\n",
        "underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n",
        "comma": b"3,\r\nabc\r\n0\r\n\r\n",
        "NUL": b"3\0\r\nabc\r\n0\r\n\r\n",
    }
    for name, body in bad.items():
        yield Case(f"bad chunks: {name}", (_post(TE, body + GET),))
    lax = {
        "one byte too long, so that a bare LF follows": b"4\r\nabc\r\n0\r\n\r\n",
        "space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
        "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
        "bare LF after the data": b"3\r\nabc\n0\r\n\r\n",
        "bare LF at the end": b"3\r\nabc\r\n0\r\n\n",
        "bare LF in an extension": b"3;a\nbc\r\nabc\r\n0\r\n\r\n",
        "CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        "malformed trailer": b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n",
        "trailer with a bare LF": b"3\r\nabc\r\n0\r\nA: b\n\r\n",
        "long extension": b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    }
    for name, body in lax.items():
        yield Case(f"lax chunks: {name}", (_post(TE, body + GET),), "parsers disagree on where such a chunk ends")


def _early() -> Iterator[Case]:
    whole = _post(CL % 5, b"hello")
    for at in (1, 10, len(whole) - 8, len(whole) - 5, len(whole) - 1):
        yield Case(f"closed after {at}", (whole[:at],), half_close=True)
        yield Case(f"silent after {at}", (whole[:at],))
    chunked = _post(TE, _chunks(b"hello"))
    for back in (1, 2, 3, 5, 7, 10):
        yield Case(f"chunked, closed {back} early", (chunked[:-back],), half_close=True)
        yield Case(f"chunked, silent {back} early", (chunked[:-back],))
