"""Content coding of captured bodies: identity, gzip and deflate, unpacked within a bound; nothing else.

Brotli and zstd would need another package and are rare on API traffic: they are ineligible, and counted.
"""

from __future__ import annotations

import zlib

from proxy.exchange import Headers


def header(headers: Headers, name: bytes) -> str:
    """The value of a captured header, lower-cased and stripped; several are joined by commas; "" when absent."""
    values = [value.decode("latin-1").strip().lower() for key, value in headers if key.lower() == name]
    return ", ".join(value for value in values if value)


def unpacked(headers: Headers, body: bytes, max_bytes: int) -> bytes | None:
    """The body as it was before its content coding.

    None: a coding that we do not read, a stream that is damaged or cut, or one that unpacks past `max_bytes`.
    """
    coding = header(headers, b"content-encoding")
    if coding in ("", "identity"):
        return body
    if coding in ("gzip", "x-gzip"):
        return _inflated(body, max_bytes, zlib.MAX_WBITS | 16)
    if coding == "deflate":  # RFC 9110 says zlib; some senders mean raw
        whole = _inflated(body, max_bytes, zlib.MAX_WBITS)
        return whole if whole is not None else _inflated(body, max_bytes, -zlib.MAX_WBITS)
    return None


def _inflated(body: bytes, max_bytes: int, wbits: int) -> bytes | None:
    inflater = zlib.decompressobj(wbits)
    try:
        whole = inflater.decompress(body, max_bytes)
    except zlib.error:
        return None
    return whole if inflater.eof and not inflater.unused_data else None
