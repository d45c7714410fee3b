"""Escape untrusted text for a terminal, a shell or Markdown.

Control characters act on a terminal, a shell splits and expands words, Markdown has markup. Text from users and rows
has to pass through these functions, or through `progress.Terminal`, which calls `make_visible` on every string.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Control, bidirectional and invisible characters (page.js has the same set): some act on a terminal, and a poisoned row
# may hide its trigger in the others. The joiners that emoji and Persian need are not in the set.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
# characters with a meaning in Markdown or HTML; an underscore inside a word has none
_MARKUP = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")


def make_visible(text: Any) -> str:
    """Replace each control or hidden character with its code point, as in ⟨U+001B⟩."""
    plain = str(text).replace("\r\n", "\n").expandtabs(4)
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", plain)


def collapse_whitespace(text: str) -> str:
    """Replace every run of whitespace with one space."""
    return re.sub(r"\s+", " ", text)


def shell_quote(word: object) -> str:
    """Quote a word for a shell, on one line; non-printable characters need bash's $'…' form."""
    text = str(word)
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_octal, text))}'"


def _octal(character: str) -> str:
    if character.isprintable() and character not in "\\'":
        return character
    # lone surrogates in an argument stand for bytes that are not UTF-8
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", errors))


def cli_command(name: str, /, *arguments: object, **options: Any) -> str:
    """Return a `taughtby` command to copy into a shell, such as `cli_command("index verify", "idx", rows=4)`.

    Options that are None, False or an empty list are left out.
    """
    words = ["taughtby", name]
    for argument in map(str, arguments):
        # a path that would be parsed as an option
        words.append(shell_quote(f"./{argument}" if argument.startswith("-") else argument))
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is True:
                words.append(flag)
            elif item is not None and item is not False:
                words += [f"{flag}={shell_quote(item)}"] if str(item).startswith("-") else [flag, shell_quote(item)]
    return " ".join(words)


def markdown_text(text: object) -> str:
    """Escape text for a line of Markdown."""
    return _MARKUP.sub(r"\\\g<0>", collapse_whitespace(make_visible(text)))


def markdown_code(text: object) -> str:
    """Format text as inline code in Markdown, with a fence longer than any run of backticks in it."""
    flat = collapse_whitespace(make_visible(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    pad = " " if "`" in (flat[:1], flat[-1:]) else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def closest(name: str, names: Iterable[str]) -> str:
    """Return what to do about an unknown name: the closest known one first, then all of them."""
    known = list(names)
    close = [word for word in known if name and word.startswith(name)] or get_close_matches(name, known, 1)
    return (f"did you mean {close[0]}? " if close else "") + f"choose one of: {', '.join(known)}"


def plural(number: int, noun: str) -> str:
    """Return a number and its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shorten(value: Any, limit: int = 80) -> str:
    """Format a value for an error message: cut to `limit` characters, with non-printable ones escaped."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isprintable() else repr(text)[1:-1]
