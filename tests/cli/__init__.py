"""The command line, the control API behind it, and what `check` finds."""
