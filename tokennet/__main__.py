"""`python -m tokennet` is the `tokennet` command."""

from tokennet.cli import main

if __name__ == "__main__":
    main()
