"""Entry point of the command: Ctrl-C is answered while modules still load."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the ``opm-engine`` command."""
    try:
        from opm_engine.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
