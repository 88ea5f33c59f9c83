"""HTML that escapes by construction: text is escaped when it enters an element, and only elements are not.

Prompts and replies are an attacker's to choose. Besides markup, control characters are made visible and lone
surrogates replaced; elements that hold them are isolated for bidirectional text by the style sheet.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"meta", "br", "input", "link", "hr"})


class Html(str):
    """Markup that was built here. Nothing else is ever trusted."""

    __slots__ = ()


Part: TypeAlias = str | int | Iterable["Part"] | None


def escape(text: str) -> Html:
    """The text as it may stand in an element or a quoted attribute."""
    shown = "".join(_visible(char) for char in text) if not text.isprintable() else text
    return Html(html.escape(shown.encode("utf-8", "replace").decode(), quote=True))


def tag(name: str, /, *parts: Part, **attributes: str | bool | None) -> Html:
    """One element. A trailing underscore in an attribute's name is dropped, the others become hyphens; None and
    False leave the attribute out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(parts)}</{name}>")


def join(part: Part) -> Html:
    """All parts in order, escaped where they are not elements."""
    if part is None:
        return Html("")
    if isinstance(part, Html):
        return part
    if isinstance(part, str | int):
        return escape(str(part))
    return Html("".join(join(inner) for inner in part))


def _attribute(key: str, value: str | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or char.isprintable() or char == " ":
        return char
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's pictures of control characters
    if code == 0x7F or 0x80 <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code == 0x200B:
        return f"\\u{code:04x}"
    return char
