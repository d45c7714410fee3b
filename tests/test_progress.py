"""Progress bars are drawn on terminals only."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

from taughtby import progress


@pytest.mark.parametrize("jupyter", [True, False])
def test_no_progress_bar_without_widgets_or_in_a_pipe(monkeypatch: pytest.MonkeyPatch, jupyter: bool) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with progress._bar(Console(file=out, force_jupyter=jupyter), "index", True) as bar:
            bar(1, 2)
            bar.set_note("a note")
    assert out.getvalue() == ""
