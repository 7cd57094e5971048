"""``python -m tinyalex`` is the command ``tinyalex``."""

from tinyalex.cli import main

main()
