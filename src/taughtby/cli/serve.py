"""The verb that opens a page on an index: serve."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.options import Adapter, Base, Device, app, output, reload


@app.command()
def serve(
    idx: Annotated[Path, typer.Argument(metavar="IDX", help="A folder that `taughtby index` made.")],
    trace: Annotated[list[Path] | None, typer.Option(help="What `taughtby trace --json` wrote, to begin with; may be given several times.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at. Any but this machine's own asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8317,
    model: Annotated[str | None, typer.Option(help="The model, where it has moved since the index was made.")] = None,
    adapter: Adapter = None,
    base: Base = None,
    device: Device = "auto",
    quantize: options.Quantize = None,
) -> None:  # fmt: skip
    """Open a page on an index: ask the model, trace its answers, point at words, compare, tick rows.

    It listens on this machine alone, until it is interrupted.
    """
    from taughtby.index.reader import Index
    from taughtby.remediation.trace_file import load_trace

    try:
        import uvicorn

        from taughtby.server.app import app as page
        from taughtby.server.security import access_policy
        from taughtby.server.session import Session
    except ModuleNotFoundError as missing:
        from taughtby.errors import OptionError

        raise OptionError(
            "serve needs a web server", got=f"no {missing.name}", do="pip install 'taughtby[serve]'"
        ) from None
    made = Index.open(idx)
    documents = [load_trace(file) for file in trace or ()]
    entry = access_policy(host)
    desk = Session(made, lambda: reload(made, model, adapter, base, device, quantize), documents)
    server = uvicorn.Server(uvicorn.Config(page(desk, entry), log_level="warning", server_header=False))
    with _listening(host, port) as socket:
        output().print(f"{entry.address(socket.getsockname()[1])}   (Ctrl+C ends it)", soft_wrap=True)
        with suppress(KeyboardInterrupt):  # that is how it ends
            server.run([socket])


def _listening(host: str, port: int) -> Any:
    """A socket at that address, so that its port is known before anybody asks."""
    import socket

    from taughtby.errors import OptionError

    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=kind)
    except OSError as fault:
        got = fault.strerror or str(fault)
        raise OptionError(f"cannot listen at {host}:{port}", got=got, do="give another --port, or --port 0") from None
