"""The command `unrolled`."""

import io
import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    try:
        from unrolled.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print("unrolled: the command line needs typer and rich: pip install 'unrolled[cli]'", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ⊙ still gets the equations
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
