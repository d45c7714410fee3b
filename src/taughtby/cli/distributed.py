"""`--ray`: an option whose address may be left out, and the workers it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from taughtby.index.distributed import RayPool

OWN = "local"
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Capture in many processes: on this machine's own Ray, or on the cluster at auto or HOST:PORT.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --ray: how many processes. [default: one a GPU, else half as many as cores]"),
]  # fmt: skip


class Hiring(TyperCommand):
    """A verb with `--ray`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; an address is `auto`, `local` or has a colon, and what else follows is not for --ray."""
        given: list[str] = []
        for at, arg in enumerate(args):
            given.append(arg)
            after = args[at + 1] if at + 1 < len(args) else ""
            if arg == "--ray" and after not in ("auto", OWN) and (":" not in after or after.startswith("-")):
                given.append(OWN)
        return super().parse_args(ctx, given)


def hired(
    ctx: typer.Context, address: str | None, workers: int | None, device: str, quantize: str | None
) -> RayPool | None:
    """The workers asked for, until the verb ends."""
    from taughtby.errors import OptionError

    if address is None:
        if workers:
            raise OptionError("--workers goes with --ray", got=f"--workers {workers}", do="add --ray")
        return None
    try:
        from taughtby.index.distributed import RayPool
    except ModuleNotFoundError as missing:
        if missing.name != "ray":
            raise
        raise OptionError("--ray needs Ray", got="no ray", do="pip install 'taughtby[ray]'") from None
    return ctx.with_resource(RayPool(address, workers, device=device, quantize=quantize))
