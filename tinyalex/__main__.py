"""``python -m tinyalex`` is the command ``tinyalex``."""

import sys


def main():
    """Run the command line; Ctrl-C ends it in one line while the commands are being imported, too."""
    try:
        from tinyalex import cli

        cli.main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
