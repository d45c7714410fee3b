"""Axolotl's prompt formats for instructions, as Jinja templates that write the same text."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, replace
from typing import Any, cast

# the beginning of such a template: its text has no BOS, so the tokenizer adds it, as for plain text
WORDING = "{#- a trainer's own wording -#}"
_OMITTED_INPUT = "\n\n"  # separates an input that the prompt format leaves out
_ONE_TURN_ONLY = "the wording has one question and one answer"


@dataclass(frozen=True)
class Wording:
    """A prompt format: the texts around {instruction}, {input} and {system}, as Python format strings.

    Attributes:
        turn: For a row with an input.
        turn_no_input: For a row without an input.
        system_format: For a system prompt.
        systems: The system prompts of rows with and without an input.
        own_system: Whether a system prompt of the row replaces these.
        columns: Pairs of taughtby's name and the data's name of a column.
    """

    turn: str
    turn_no_input: str
    system_format: str = "{system}"
    systems: tuple[str, str] = ("", "")
    own_system: bool = False
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def join(self) -> str | None:
        """The separator between an instruction and its input; None for a format that is not supported."""
        parts, without = _parts(self.turn), _parts(self.turn_no_input)
        if not parts or not without or len(without) != 2:
            return None
        return parts[1] if len(parts) == 3 else _OMITTED_INPUT

    @property
    def template(self) -> str:
        """The Jinja template. It expects user messages with the input after the instruction, and again as `input`."""
        with_input, without = _parts(self.turn) or [], _parts(self.turn_no_input) or []
        before, after = (_either(with_input[place], without[place]) for place in (0, -1))
        first, last = (_around(self.system_format) or ["", ""])[:2]
        instruction = "ask.content"
        if len(with_input) == 2:  # the format leaves the input out
            behind = f"({_literal(_OMITTED_INPUT)} ~ ask.input)|length"
            instruction = f"(ask.content[:ask.content|length - {behind}] if ask.input else ask.content)"
        system = f"{{%- set system = {_either(*self.systems)} -%}}"
        if self.own_system:
            system += "{%- if turns|length < messages|length -%}{%- set system = messages[0].content -%}{%- endif -%}"
        return (
            f"{WORDING}{{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}}"
            f"{{%- if turns|length > 2 or turns[0].role != 'user' -%}}{{{{ raise_exception('{_ONE_TURN_ONLY}') }}}}"
            f"{{%- endif -%}}{{%- set ask = turns[0] -%}}{system}"
            f"{{%- if system -%}}{{{{ {_literal(first)} ~ system ~ {_literal(last)} }}}}{{%- endif -%}}"
            f"{{{{ ({before}) ~ {instruction} ~ ({after}) }}}}"
            "{%- if turns|length > 1 -%}{{ turns[1].content }}"
            "{%- if not turns[1].content.endswith(eos_token or '') -%}{{ eos_token }}{%- endif -%}{%- endif -%}"
        )


def _literal(text: str) -> str:
    """Return a text as a Jinja literal. Jinja does not join JSON's two escapes of a character such as an emoji."""
    return json.dumps(text, ensure_ascii=False)


def _either(with_input: str, without: str) -> str:
    return f"{_literal(with_input)} if ask.input else {_literal(without)}"


def _parts(text: str) -> list[str] | None:
    """Return the literal texts around {instruction}, and around {input} if it follows; None for any other order."""
    pieces = _pieces(text)
    if pieces is None or [name for _, name in pieces if name] not in (["instruction"], ["instruction", "input"]):
        return None
    return [literal for literal, _ in pieces]


def _around(text: str) -> list[str] | None:
    pieces = _pieces(text)
    return [literal for literal, _ in pieces] if pieces and [name for _, name in pieces if name] == ["system"] else None


def _pieces(text: str) -> list[tuple[str, str | None]] | None:
    """Return pairs (literal text, field after it), with None as the last field; None for an invalid format string."""
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError:
        return None
    if any(spec or way for _, _, spec, way in fields):
        return None
    pieces: list[tuple[str, str | None]] = []
    literal = ""
    for text_before, name, _, _ in (*fields, ("", None, None, None)):
        literal += text_before  # an escaped brace is parsed as a separate piece
        if name is not None:
            pieces.append((literal, name))
            literal = ""
    return [*pieces, (literal, None)]


_TASK = "Below is an instruction that describes a task"
_DONE = "Write a response that appropriately completes the request."
_SYSTEMS = (f"{_TASK}, paired with an input that provides further context. {_DONE}", f"{_TASK}. {_DONE}")
_FROM_USER = "Below is an instruction from a USER that describes a task"
_CONCISE = (
    f"{_FROM_USER}, paired with an input that provides further context. The ASSISTANT writes a response that concisely "
    "and appropriately completes the request.\n\n",
    f"{_FROM_USER}. The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n",
)
_INSTRUCT = Wording(
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "### Instruction:\n{instruction}\n\n### Response:\n", "{system}\n\n", _SYSTEMS,
)  # fmt: skip
_CHAT = Wording("USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:",
                "SYSTEM: {system}\n", _SYSTEMS)  # fmt: skip
_ROWS_SYSTEM: dict[str, Any] = {"systems": ("", ""), "own_system": True}
AXOLOTL = {
    "alpaca": _INSTRUCT, "alpaca:instruct": _INSTRUCT, "alpaca_instruct": _INSTRUCT, "alpaca:chat": _CHAT,
    "gpteacher": replace(_INSTRUCT, columns=(("instruction", "instruction"), ("response", "response"))),
    "alpaca_instruct.load_no_prompt": replace(_INSTRUCT, systems=("", "")),
    "alpaca_chat": _CHAT, "alpaca_chat.load_no_prompt": replace(_CHAT, systems=("", "")),
    "alpaca_chat.load_concise": replace(_CHAT, systems=_CONCISE),
    "alpaca_chat.load_qa": replace(_CHAT, systems=_CONCISE, columns=(("question", "question"), ("answer", "answer"))),
    "alpaca_w_system": replace(_CHAT, **_ROWS_SYSTEM), "alpaca_w_system.load_chat": replace(_CHAT, **_ROWS_SYSTEM),
    "alpaca_w_system.load_instruct": replace(_INSTRUCT, **_ROWS_SYSTEM),
}  # fmt: skip


def axolotl_wording(kind: Any) -> Wording | None:
    """Return the prompt format of a data set's `type`, a name or a mapping; None if it is not supported."""
    if isinstance(kind, str):
        return AXOLOTL.get(kind)
    if not isinstance(kind, dict):
        return None
    fields = cast("dict[str, Any]", kind)
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    names = {"instruction": "field_instruction", "output": "field_output", "system": "field_system"}
    columns = tuple((name, fields[key]) for name, key in names.items() if key in fields and fields[key] != name)
    if columns and not {"instruction", "output"} & {name for name, _ in columns}:
        columns = ()
    system = fields.get("system_prompt", "")
    wording = Wording(
        fields.get("format") or "{instruction} {input} ", fields.get("no_input_format") or "{instruction} ",
        fields.get("system_format") or "{system}", (system, system), own_system=True, columns=columns,
    )  # fmt: skip
    other_input = fields.get("field_input", "input") != "input"
    return None if wording.join is None or _around(wording.system_format) is None or other_input else wording
