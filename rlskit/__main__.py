"""``python -m rlskit``."""

from rlskit.cli import main

main()
