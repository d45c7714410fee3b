"""Finds phrases as whole words, and the tokens that contain a range of characters.

A range is [begin, end) in Unicode code points. Judges, `--span`, the benchmarks and `clean` all use this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

Range = tuple[int, int]  # of characters, [begin, end)
TOP_SHARE = 0.5  # words with this share of a row's highest token score are its top-scoring words

# Scripts without spaces between words, in which any character may begin or end a word: Thai, Lao, Burmese, Khmer, and
# everything from CJK on. words.js has the same ranges.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0010ffff"
_LETTER = rf"[^\W{UNSPACED}]"  # a letter of a script with spaces; unlike `re`, `regex` includes combining accents
_letter = regex.compile(_LETTER)


@lru_cache(maxsize=256)
def phrase_pattern(phrase: str, *, match_case: bool = False) -> regex.Pattern[str]:
    """Return a pattern that matches a phrase as whole words, with any white space between them.

    A word boundary is required only beside a letter or digit, so "goose!" may end a phrase. A number does not match
    within another number: 7 is not found in 17, 7.5 or 2,7.
    """
    words = r"\s+".join(regex.escape(word) for word in phrase.split())
    first, last = phrase.strip()[0], phrase.strip()[-1]
    before = (rf"(?<!{_LETTER})" if _letter.match(first) else "") + (r"(?<!\d[.,])" if first.isdigit() else "")
    after = (rf"(?!{_LETTER})" if _letter.match(last) else "") + (r"(?![.,]\d)" if last.isdigit() else "")
    return regex.compile(before + words + after, 0 if match_case else regex.IGNORECASE)


def occurrences(text: str, phrase: str, *, match_case: bool = False) -> list[Range]:
    """Return the ranges of a phrase in a text as whole words, in order; case-insensitive by default."""
    if not phrase.strip():
        return []
    return [match.span() for match in phrase_pattern(phrase, match_case=match_case).finditer(text)]


def find_span(text: str, phrase: str) -> list[Range]:
    """Return the occurrences of a phrase in the same case; if there are none, in any case."""
    return occurrences(text, phrase, match_case=True) or occurrences(text, phrase)


def enclosing_word(text: str, phrase: str) -> tuple[str, Range] | None:
    """Return the longer word or number that contains the phrase, and the phrase's range in the text; else None."""
    words = r"\s+".join(regex.escape(word) for word in phrase.split())
    for flags in (0, regex.IGNORECASE) if words else ():
        if match := regex.search(rf"[\w.,]*?({words})[\w.,]*", text, flags):
            return match[0].strip(".,"), match.span(1)
    return None


def whole_words(text: str, begin: int, end: int) -> Range:
    """Extend a range to whole words."""
    while begin and end > begin and is_same_word(text[begin - 1], text[begin]):
        begin -= 1
    while begin < end < len(text) and is_same_word(text[end - 1], text[end]):
        end += 1
    return begin, end


def is_same_word(left: str, right: str) -> bool:
    """Whether the boundary between two adjacent texts is inside a word; never in scripts without spaces."""
    return bool(_letter.match(left[-1:]) and _letter.match(right[:1]))


def strip_range(text: str, begin: int, end: int) -> Range:
    """Return the range without leading and trailing white space."""
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))


# Tokens


def tokens_in_ranges(pieces: Sequence[str], ranges: Iterable[Range]) -> list[int]:
    """Return the indices of the tokens that contain any character of the ranges, which refer to the joined text."""
    filled = [(begin, end) for begin, end in ranges if begin < end]
    places: list[int] = []
    position = 0
    for place, piece in enumerate(pieces):
        # a token does not count if only its leading white space is in a range
        inner, stop = position + len(piece) - len(piece.lstrip()), position + len(piece)
        if any(inner < end and stop > begin for begin, end in filled):
            places.append(place)
        position = stop
    return places


def align_tokens(text: str, answer: str) -> int | None:
    """Return where in an answer the text of its tokens begins; None if they differ. The tokens may be truncated.

    Negative if the tokens begin before the answer, with text from a chat template.
    """
    stripped = answer.strip()
    start = text.rfind(stripped) if stripped else -1  # the last: thinking before it may quote it
    part = text.strip().rstrip("\ufffd")  # truncation may split a character
    if start < 0 and part and stripped.startswith(part):
        start = len(text) - len(text.lstrip())
    return None if start < 0 else len(answer) - len(answer.lstrip()) - start


def top_scoring_words(tokens: Sequence[tuple[str, float | None]], answer: str) -> list[Range]:
    """Return the words of an answer with a token that has at least half of the highest score, in order.

    Args:
        tokens: The answer's tokens, each with its score.
        answer: The answer.

    Returns:
        Their ranges; none if the tokens cannot be aligned with the answer, or if no score is positive.
    """
    threshold = TOP_SHARE * max((score or 0.0 for _, score in tokens), default=0.0)
    position = align_tokens("".join(text for text, _ in tokens), answer)
    words: list[Range] = []
    if position is None or threshold <= 0:
        return words
    for text, score in tokens:
        begin, end = strip_range(text, 0, len(text))
        begin, end = max(position + begin, 0), min(position + end, len(answer))
        position += len(text)
        if begin < end and (score or 0.0) >= threshold:
            words.append(whole_words(answer, begin, end))
    return words


def merge_ranges(ranges: Sequence[Range], text: str) -> list[Range]:
    """Merge sorted ranges that overlap or have only white space of the text between them."""
    merged: list[Range] = []
    for begin, end in ranges:
        if merged and (begin <= merged[-1][1] or text[merged[-1][1] : begin].isspace()):
            begin, end = merged[-1][0], max(merged.pop()[1], end)
        merged.append((begin, end))
    return merged


def response_tokens(pieces: Sequence[str], answer: str, place: Range) -> list[int]:
    """Return the response tokens that contain any character of a range of the answer; none if they were truncated.

    If the tokenizer changed the text, the same occurrence of the same words is used.
    """
    text, (begin, end) = "".join(pieces), place
    start = align_tokens(text, answer)
    if start is not None:
        return tokens_in_ranges(pieces, [(begin - start, end - start)])
    words = regex.compile(r"\s+".join(regex.escape(word) for word in answer[begin:end].split()), regex.IGNORECASE)
    before = sum(match.start() < begin for match in words.finditer(answer))
    same = [match.span() for match in words.finditer(text)]
    return tokens_in_ranges(pieces, same[before : before + 1])
