"""`tokennet` and `python -m tokennet`: runs `tokennet.cli`, or says that its extra is missing."""

import importlib
import sys

from tokennet.checks import require


def main() -> None:
    """Run the command; without typer and rich, name the extra that brings them."""
    try:
        for package in ("typer", "rich"):
            require(package, "cli")
    except ImportError as error:
        print(f"tokennet: {error}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module("tokennet.cli").main()


if __name__ == "__main__":
    main()
