"""The structure of the command line: groups of commands, their order and panels, examples and links in each help text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from taughtby.cli.options import ROWS

DOCS = "https://taughtby.github.io/taughtby"
ORDER = (
    "demo", "data", "index", "trace", "check", "clean", "retrain", "audit", "site", "serve", "lab", "bench",
    "inspect", "layers", "build", "append", "add", "info", "verify", "compact", "delete", "copy", "push", "pull", "undo",
    "poison", "finetune", "generate", "judge", "run", "causal",
)  # fmt: skip
F = TypeVar("F", bound=Callable[..., None])


class Command(TyperCommand):
    """A command whose help shows no Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options, with the types removed from their help."""
        return _without_types(super().get_params(ctx))


class IndexedCommand(Command):
    """A command that by default reads rows as they were read for the index."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options; the defaults of those in the panel ROWS are shown as the index's."""
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "rich_help_panel", None) == ROWS and param.show_default:
                param.show_default = "the index's"
        return params


class _Group(TyperGroup):
    """Commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


def _without_types(params: list[Any]) -> list[Any]:
    """Remove `<bool>` from the help of flags, and types such as `<list[str]>` from that of arguments."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: None
        elif isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
    return params


def _group(**options: Any) -> typer.Typer:
    return typer.Typer(
        cls=_Group,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **options,
    )


app = _group(
    add_completion=True,
    help="Find the training rows, and the tokens in them, that caused a fine-tuned language model's bad output.",
    epilog=f"Start here: taughtby demo\n\nDocumentation: {DOCS}",
)
index_app, data_app, lab_app, bench_app = _group(), _group(), _group(), _group()
app.add_typer(data_app, name="data", help="Inspect training data before it is indexed.", rich_help_panel="Trace")
app.add_typer(index_app, name="index", help="Build and maintain an index of training data.", rich_help_panel="Trace")
app.add_typer(
    lab_app, name="lab", help="Poison data, fine-tune, generate and judge answers.", rich_help_panel="Experiments"
)
app.add_typer(bench_app, name="bench", help="Benchmark the methods.", rich_help_panel="Experiments")


def command(
    group: typer.Typer,
    *,
    example: str,
    page: str,
    name: str | None = None,
    panel: str | None = None,
    cls: type[Command] = Command,
) -> Callable[[F], F]:
    """Add a function to a group as a command whose help ends with an example and a link into the documentation."""
    epilog = f"Example: {example}\n\nDocumentation: {DOCS}/{page}/"
    return group.command(name, cls=cls, epilog=epilog, rich_help_panel=panel)


def _print_version(value: bool) -> None:
    if value:
        print(f"taughtby {sys.modules['taughtby'].__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of taughtby itself."""
