"""A finished trace as text: terminal, JSON, HTML page, notebook, plots."""
