"""`--ray`, an option whose value is optional, and the worker pool that it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from taughtby.cli.app import Command, IndexedCommand

if TYPE_CHECKING:
    from taughtby.index.distributed import RayPool

LOCAL = "local"
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Compute in many processes: on this machine, or on the Ray cluster at auto or HOST:PORT.",
        rich_help_panel="Many processes",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="With --ray: the number of processes.",
        show_default="one per GPU, else half as many as cores",
        rich_help_panel="Many processes",
    ),
]


class RayCommand(Command):
    """A command with `--ray`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; what follows --ray is its address only if it is `auto` or `local` or has a colon."""
        full: list[str] = []
        for arg, after in zip(args, [*args[1:], ""], strict=False):
            full.append(arg)
            if arg == "--ray" and after not in ("auto", LOCAL) and (":" not in after or after.startswith("-")):
                full.append(LOCAL)
        return super().parse_args(ctx, full)


class RayIndexedCommand(RayCommand, IndexedCommand):
    """A command with `--ray` that by default reads rows as they were read for the index."""


def worker_pool(
    ctx: typer.Context, address: str | None, workers: int | None, device: str, quantize: str | None
) -> RayPool | None:
    """Return the worker pool of `--ray`, which is closed when the command ends; None without the option."""
    from taughtby.errors import OptionError

    if address is None:
        if workers:
            raise OptionError("--workers requires --ray", got=f"--workers {workers}", do="add --ray")
        return None
    try:
        from taughtby.index.distributed import RayPool
    except ModuleNotFoundError as missing:
        if missing.name != "ray":
            raise
        raise OptionError("--ray needs Ray", got="no ray", do="pip install 'taughtby[ray]'") from None
    return ctx.with_resource(RayPool(address, workers, device=device, quantize=quantize))
