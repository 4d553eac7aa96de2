"""`overt` and `python -m overt`."""

import sys


def main() -> None:
    """Run the command line and leave with its exit status (see `overt help exit-codes`)."""
    try:
        from overt.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the first modules were still being imported
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
