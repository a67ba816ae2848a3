"""The command line: `edgeserver VERB …`. Nothing heavy is imported before a verb runs: help is there at once, on a small board too.

Exit codes: 0 done; 1 it could not be done, or `check` found something wrong; 2 the command line or the configuration is wrong;
130 interrupted by Ctrl-C. An error is one plain sentence on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys

from edgeserver.cli import lines, operators, people, programs, serving, upkeep
from edgeserver.cli.console import CommandError, complain
from edgeserver.cli.verbs import Verbs

SHOW_TRACEBACK = "EDGESERVER_TRACEBACK"

_DESCRIPTION = "A Matrix homeserver for small boxes, thin lines and places without internet."
_EPILOG = """examples:
  edgeserver quickstart          asks three questions and writes edgeserver.toml
  edgeserver serve               runs the box
  edgeserver person add alice    makes an account
  edgeserver VERB --help         tells more about a verb

exit codes: 0 done; 1 it could not be done, or check found something; 2 the command line or the configuration is wrong

Verbs read --config FILE, else $EDGESERVER_CONFIG, else edgeserver.toml in this folder, else the defaults with ./data.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line, with help and examples."""
    top = argparse.ArgumentParser(
        prog="edgeserver", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = Verbs(top)
    for group in (serving, upkeep, people, operators, lines, programs):
        group.add(verbs)
    return top


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    """The parsed command line; what only the program behind a verb can read is in `rest`."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and not hasattr(arguments, "rest"):
        top.error(f"unknown arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = _parsed(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except CommandError as error:
        complain(str(error))
        return error.status
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C.")
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK):
            raise
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        complain(f"this should not have happened ({what}). Run it again with {SHOW_TRACEBACK}=1 to see where, and please report it.")
        return 1
