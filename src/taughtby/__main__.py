"""`python -m taughtby` is `taughtby`."""

from taughtby.cli import main

if __name__ == "__main__":
    main()
