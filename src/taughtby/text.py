"""Text of people and of training rows, as it may be written where something reads more into it than text.

A terminal obeys control characters, a shell splits and expands, Markdown has markup. Whatever a person types or a row
holds goes through here, or through `progress.Terminal`, which calls `visible` on every string.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

# Control, bidirectional and invisible characters (page.js has the same): a terminal obeys some of them, and a
# poisoned row may hide its trigger in the others. The joiners that emoji and Persian need are not among them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
# what begins something in Markdown or HTML; an underscore within a word does not
_MARKUP = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")


def make_visible(text: Any) -> str:
    """The text with each character that acts or hides written out, as in ⟨U+001B⟩."""
    plain = str(text).replace("\r\n", "\n").expandtabs(4)
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", plain)


def collapse_whitespace(text: str) -> str:
    """The text with every run of blanks as one."""
    return re.sub(r"\s+", " ", text)


def shell_quote(word: object) -> str:
    """The word as a shell reads it, on one line; one with characters that do not print is in bash's $'…' form."""
    text = str(word)
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_octal, text))}'"


def _octal(sign: str) -> str:
    if sign.isprintable() and sign not in "\\'":
        return sign
    # half characters of an argument stand for bytes that are no UTF-8
    errors = "surrogateescape" if "\udc80" <= sign <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in sign.encode("utf-8", errors))


def cli_command(verb: str, /, *given: object, **options: Any) -> str:
    """A `taughtby` command to be copied into a shell; an option that is None, False or empty is not given."""
    words = ["taughtby", verb]
    for one in map(str, given):
        words.append(shell_quote(f"./{one}" if one.startswith("-") else one))  # a path that looks like an option
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is True:
                words.append(flag)
            elif one is not None and one is not False:
                words += [f"{flag}={shell_quote(one)}"] if str(one).startswith("-") else [flag, shell_quote(one)]
    return " ".join(words)


def markdown_text(text: object) -> str:
    """The text in a line of Markdown, as text."""
    return _MARKUP.sub(r"\\\g<0>", collapse_whitespace(make_visible(text)))


def markdown_code(text: object) -> str:
    """The text in a line of Markdown, as code: the fence is longer than any row of backticks in it."""
    flat = collapse_whitespace(make_visible(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    pad = " " if "`" in (flat[:1], flat[-1:]) else ""
    return f"{fence}{pad}{flat}{pad}{fence}"
