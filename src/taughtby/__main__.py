"""The command line, as `python -m taughtby`."""

from taughtby.cli import main

if __name__ == "__main__":
    main()
