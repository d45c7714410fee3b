"""Take docs/page.png: the served page on a trace, in Chromium by Playwright.

The picture of the documentation is of the trace of docs/tutorial/from-an-evaluation.md, in its folder:

    python CHECKOUT/benchmarks/page_picture.py trace.json CHECKOUT/docs/page.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1216, 764  # a README shows it about 900 pixels wide
SCALE = 1.4


def take_picture(url: str, out: Path) -> None:
    """Save a picture of the first view of a running server."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        )
        page.goto(url)
        page.wait_for_selector("#rows > li")
        page.wait_for_selector("#tab-map", state="visible")
        page.screenshot(path=out)
        browser.close()


def main() -> None:
    """Serve the trace, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path, help="what `taughtby trace … --json FILE` wrote")
    parser.add_argument("out", type=Path, help="the picture to write")
    options = parser.parse_args()
    serve = [sys.executable, "-c", "from taughtby.cli import main; main()", "serve", str(options.trace), "--port", "0"]
    with subprocess.Popen([*serve, "--no-open"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        take_picture(server.stdout.readline().split()[0], options.out)
        server.terminate()


if __name__ == "__main__":
    main()
