"""`python -m ragsocket` is the command `ragsocket`."""

from ragsocket.cli import main

if __name__ == "__main__":
    main()
