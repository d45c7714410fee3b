"""The command that serves a page on an index: serve."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import typer

from taughtby.cli import options
from taughtby.cli.app import app, command
from taughtby.cli.arguments import check_file, check_index, kind_of, trace_index
from taughtby.cli.console import output, reload


@command(app, example="taughtby serve idx", page="how-to/serve-the-page", panel="Trace")
def serve(
    idx: Annotated[str, typer.Argument(metavar="INDEX|TRACE", help="An index, or the JSON file of a trace of one.")],
    trace: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A trace's JSON file to show first; may be repeated.")] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on. Any address but this machine's own needs a token, which is printed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="The port; 0 for any free one.")] = 8317,
    open_browser: Annotated[bool | None, typer.Option("--open/--no-open", help="Open the page in a browser; by default if there is a terminal and a desktop.", show_default=False)] = None,
    model: options.MovedModel = None,
    adapter: options.Adapter = None,
    base: options.Base = None,
    device: options.Device = "auto",
    quantize: options.Quantize = None,
) -> None:  # fmt: skip
    """Open a page in a local server: generate and trace answers, select words, compare traces, select rows.

    It listens on this machine only, until it is interrupted.
    """
    files = list(trace or ())
    if kind_of(idx) == "TRACE":
        files, idx = [Path(idx), *files], trace_index(idx)
    check_index(idx)
    for file in files:
        check_file(file, "the file that `taughtby trace … --json FILE` wrote")
    from taughtby.index.reader import Index
    from taughtby.remediation.trace_file import load_trace

    try:
        import uvicorn

        from taughtby.server.app import create_app
        from taughtby.server.security import access_policy
        from taughtby.server.session import Session
    except ModuleNotFoundError as missing:
        from taughtby.errors import OptionError

        do = "pip install 'taughtby[serve]'"
        raise OptionError("serve needs a web server", got=f"no {missing.name}", do=do) from None
    index = Index.open(idx)
    documents = [load_trace(file) for file in files]
    policy = access_policy(host)
    session = Session(index, lambda: reload(index, model, adapter, base, device, quantize), documents)
    server = uvicorn.Server(uvicorn.Config(create_app(session, policy), log_level="warning", server_header=False))
    with _listening(host, port) as socket:
        address = policy.address(socket.getsockname()[1])
        output().print(f"{address}   (stop with Ctrl+C)", soft_wrap=True)
        if _has_desktop() if open_browser is None else open_browser:
            # in a thread, since some browsers return only when they are closed; the socket accepts connections already
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # Ctrl+C stops the server
            server.run([socket])


def _has_desktop() -> bool:
    """Whether the user is at this machine and would see a browser that it opens."""
    has_display = sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    return sys.stdout.isatty() and has_display and "SSH_CONNECTION" not in os.environ


def _listening(host: str, port: int) -> Any:
    """Return a socket that listens at the address, so that the port is known before the first request."""
    import socket

    from taughtby.errors import OptionError

    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=kind)
    except OSError as error:
        got = error.strerror or str(error)
        raise OptionError(f"cannot listen at {host}:{port}", got=got, do="give another --port, or --port 0") from None
