"""`quickstart`, `check`, `config`, `version`: setting a box up and looking after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeserver.cli.configured import DEFAULT_FILE, configuration, load
from edgeserver.cli.console import CommandError, complain, one_line, plural, say, say_json
from edgeserver.cli.verbs import Verbs

if TYPE_CHECKING:
    import argparse

    from edgeserver.quickstart import Answers


def add(verbs: Verbs) -> None:
    _add_quickstart(verbs)
    verbs.verb(
        "check",
        "examine the data folder: key, name, database",
        check,
        ["check", "check --data /srv/edgeserver", "check --json"],
        more="Changes nothing and may be run while the box runs. Exits with 1 if something is wrong.",
        config=True,
        json=True,
    )
    config = verbs.verb("config", "describe or check the configuration", None, ["config describe", "config check edgeserver.toml"])
    below = Verbs(config)
    below.verb(
        "describe",
        "print every setting with its help and default",
        describe_config,
        ["config describe", "config describe > edgeserver.toml"],
        more="What it prints is a configuration file of nothing but defaults.",
    )
    one = below.verb("check", "check a configuration file", check_config, ["config check edgeserver.toml"], json=True)
    one.add_argument("file", metavar="FILE", type=Path)
    verbs.verb("version", "print the version", version, ["version", "version --json"], json=True)


def _add_quickstart(verbs: Verbs) -> None:
    start = verbs.verb(
        "quickstart",
        "ask three questions and write a configuration",
        quickstart,
        [
            "quickstart",
            "quickstart --yes",
            "quickstart --name matrix.example.org --registration token --link none",
            "quickstart --self-named --gateway gw.example.org --link serial:/dev/ttyUSB0,2400",
        ],
        more="Asks for what the options do not say; with --yes, or without a terminal, the defaults answer. Never overwrites a file.",
    )
    start.add_argument("--name", metavar="DOMAIN", help="the server name, a domain that you own")
    start.add_argument("--self-named", action="store_true", help="the box names itself after its own key")
    start.add_argument("--gateway", metavar="DOMAIN", help="with --self-named: the domain of the gateway that fronts for it")
    start.add_argument("--registration", choices=("closed", "token", "open"), help="who may make an account")
    start.add_argument("--link", metavar="URI", action="append", help="a line, such as serial:/dev/ttyUSB0,2400, or none; may be repeated")
    start.add_argument("--data", metavar="DIR", default="data", help="the data folder, relative to the file (default: data)")
    start.add_argument("--output", metavar="FILE", type=Path, default=Path(DEFAULT_FILE), help=f"what to write (default: {DEFAULT_FILE})")
    start.add_argument("--yes", action="store_true", help="ask nothing")


def quickstart(arguments: argparse.Namespace) -> int:
    from edgeserver import quickstart as steps

    path: Path = arguments.output
    if path.exists():
        raise CommandError(f"{path} is there already and is not overwritten: remove it, or write another one with --output.")
    given = _given(arguments)
    try:
        if not arguments.yes and sys.stdin.isatty():
            given = steps.ask(given, input, say)
        answers = steps.filled(given)
        steps.write(path, steps.text(answers))
    except EOFError as error:
        raise CommandError("the questions have not been answered; nothing has been written.") from error
    except ValueError as error:
        raise CommandError(f"{error}.", status=2) from error
    except FileExistsError as error:
        raise CommandError(f"{path} is there already and is not overwritten.") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
    say(f"Wrote {path}.")
    say(steps.next_steps(answers, path))
    return 0


def _given(arguments: argparse.Namespace) -> Answers:
    from edgeserver.quickstart import Answers

    if arguments.name and (arguments.self_named or arguments.gateway):
        raise CommandError("--name and --self-named exclude each other, and --gateway goes with --self-named.", status=2)
    self_named = arguments.self_named or arguments.gateway is not None
    links = None if arguments.link is None else [link for link in arguments.link if link != "none"]
    return Answers(
        name="" if self_named else arguments.name,
        suffix=arguments.gateway or ("mesh" if arguments.self_named else None),
        registration=arguments.registration,
        links=links,
        data=arguments.data,
    )


def check(arguments: argparse.Namespace) -> int:
    from edgeserver.doctor import examine

    config = configuration(arguments)
    report = examine(config.data, config.server.name)
    if arguments.json:
        say_json({"data": str(config.data), "checked": report.checked, "findings": report.findings, "notes": report.notes})
        return 1 if report.findings else 0
    for finding in report.findings:
        say(f"- {one_line(finding)}.")
    for note in report.notes:
        say(f"Note: {one_line(note)}.")
    if report.findings:
        say(f"{plural(len(report.findings), 'finding')} in {config.data}. Stop the box and make a copy of the folder before anything else.")
        return 1
    say(f"Nothing is wrong with {config.data}: {', '.join(report.checked)}.")
    return 0


def describe_config(arguments: argparse.Namespace) -> int:
    from edgeserver import config

    say(config.describe().rstrip())
    return 0


def check_config(arguments: argparse.Namespace) -> int:
    from edgeserver.app.wires import WireError, driver_of, listener_of

    config = load(arguments.file)
    faults = []
    for link in config.links:
        try:
            if listener_of(link.uri) is None:
                driver_of(link.uri)
        except WireError as error:
            faults.append(f"[[links]] {error}")
    names = [link.name or link.uri for link in config.links]
    faults += [f"two lines are called {name!r}" for name in sorted({name for name in names if names.count(name) > 1})]
    for key in ("certificate", "certificate_key"):
        named = getattr(config.http, key)
        if named and not (config.folder / named).is_file():
            faults.append(f"[http] {key}: there is no file {config.folder / named}")
    if arguments.json:
        say_json({"file": str(arguments.file), "faults": faults})
    elif faults:
        for fault in faults:
            complain(f"{fault}.")
    else:
        say(f"{arguments.file} is right. Data goes to {config.data}.")
    return 2 if faults else 0


def version(arguments: argparse.Namespace) -> int:
    import platform

    from edgeserver import __version__
    from edgeserver.store.integrity import SQLITE_VERSION

    found = {"edgeserver": __version__, "python": platform.python_version(), "sqlite": SQLITE_VERSION}
    if arguments.json:
        say_json(found)
    else:
        say(f"edgeserver {found['edgeserver']} (Python {found['python']}, SQLite {found['sqlite']})")
    return 0
