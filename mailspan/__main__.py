"""The command line: finds the command, runs it, and turns what went wrong into one line and an exit code.

Exit codes: 0 found or done, 1 nothing found, 2 usage, 3 a server or file failed, 130 interrupted, 143 terminated. What
runs until told to stop ends with 0 when it is told so, even as it starts (mailspan/commands/stopping.py).

A command is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported only when it is called, so
that start stays fast. Help is --help alone: in `search`, -h is the host.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from mailspan import __version__
from mailspan.commands.stopping import Stop
from mailspan.errors import MailspanError, UsageError
from mailspan.settings import read_settings
from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


class Command(NamedTuple):
    """A command: its name, the module that has it, and what it does.

    One that runs until told to stop is given `args.stop`, which hears signals before its module is imported.
    """

    name: str
    module: str
    summary: str
    runs_until_told: bool = False


COMMANDS = (
    Command("parse", "mailspan.commands.parse", "log files to transactions, as JSON lines on stdout"),
    Command("index", "mailspan.commands.index", "log files into the store that search reads"),
    Command("search", "mailspan.commands.search", "find transactions, newest first"),
    Command("trace", "mailspan.commands.trace", "follow a mail over all hosts, and say how it really ended"),
    Command("explain", "mailspan.commands.explain", "say in plain words what happened to a mail on one server"),
    Command(
        "web", "mailspan.commands.web", "a page for the help desk: search, traces, explanations", runs_until_told=True
    ),
    Command("retention", "mailspan.commands.retention", "delete the documents of days that are too old"),
    Command(
        "produce", "mailspan.commands.produce", "lines of files or of standard input to Kafka", runs_until_told=True
    ),
    Command("reduce", "mailspan.commands.reduce", "lines of Kafka to documents, exactly once", runs_until_told=True),
    Command("sink", "mailspan.commands.sink", "documents of Kafka to Elasticsearch", runs_until_told=True),
    Command("audit", "mailspan.commands.audit", "compare Kafka's documents of a day with those indexed, and mend"),
    Command("dead-letter", "mailspan.commands.dead_letter", "list or replay what no stage could use"),
    Command(
        "setup", "mailspan.commands.setup", "create or update Kafka's topics, Elasticsearch's template, Kibana's views"
    ),
)

EXIT_FAILED = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

_CONFIG_HELP = "TOML file with settings: the names of the MAILSPAN_* variables in lower case"


class _ArgumentParser(argparse.ArgumentParser):
    """Usage errors are UsageErrors, said in one line; --help is the only flag for help; no guessed abbreviations."""

    def __init__(self, **options: object) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **options)  # type: ignore[arg-type]
        self.add_argument("--help", action="help", help="show this help and exit")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, without the program's name, and return its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    _prepare_streams()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except MailspanError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has seen enough. What is buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # Files that are read have their own messages: what is left is the output, on a full disk for example.
        _say(f"cannot go on: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(arguments: Sequence[str]) -> int:
    command, called = _call(arguments)
    stop = Stop() if command.runs_until_told else None
    module, args = _read(command, called)
    args.stop = stop
    args.settings = read_settings(os.environ, args.config)
    if getattr(args, "store", "") is None and args.settings.store:
        args.store = args.settings.store
    status: int = module.run(args)
    return status


def parse(arguments: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the module of the command that is called, and its arguments. Raises UsageError."""
    return _read(*_call(arguments))


def _call(arguments: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """Return the command that is called, without its module. Raises UsageError."""
    top = _top_parser()
    called = top.parse_args(arguments)
    if called.command is None:
        top.error("a command is missing")
    command = next((each for each in COMMANDS if each.name == called.command), None)
    if command is None:
        names = ", ".join(each.name for each in COMMANDS)
        top.error(f"no such command: {called.command!r}; expected one of {names}")
    called.arguments = _behind(called.command, arguments)
    return command, called


def _read(command: Command, called: argparse.Namespace) -> tuple[ModuleType, argparse.Namespace]:
    """Return the module of a command, and its arguments. Raises UsageError."""
    module = import_module(command.module)
    parser = _ArgumentParser(
        prog=f"mailspan {command.name}", description=getattr(module, "DESCRIPTION", command.summary)
    )
    parser.add_argument("--config", type=Path, metavar="FILE", default=called.config, help=_CONFIG_HELP)
    module.add_arguments(parser)
    # Behind `--` nothing is a flag; parsing flags and names in any order takes the `--` away before it is heeded.
    read = parser.parse_args if "--" in called.arguments else parser.parse_intermixed_args
    return module, read(called.arguments)


def _behind(command: str, arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments behind the name of the command, also the `--` among them that argparse leaves out.

    The name of a file of settings is not taken for that of the command.
    """
    at = next(
        at for at, each in enumerate(arguments) if each == command and (not at or arguments[at - 1] != "--config")
    )
    return arguments[at + 1 :]


def _top_parser() -> _ArgumentParser:
    names = "\n".join(f"  {each.name:13}{each.summary}" for each in COMMANDS)
    top = _ArgumentParser(
        prog="mailspan",
        usage="mailspan [--config FILE] COMMAND ...",
        description=f"What happened to this mail?\n\ncommands:\n{names}",
        epilog="`mailspan COMMAND --help` says more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mailspan {__version__}")
    top.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG_HELP)
    top.add_argument("command", metavar="COMMAND", nargs="?", help=argparse.SUPPRESS)
    top.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return top


def _prepare_streams() -> None:
    """Let output that nobody reads be dropped, as with a closed pipe, and let any name be printed in any locale."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - it ends with the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _say(message: str) -> None:
    with suppress(OSError):  # where that cannot be written either, the exit code still says it
        print(f"mailspan: {sanitise(message)}", file=sys.stderr)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """SIGTERM ends a command as an exception does: what was not committed is dropped whole."""
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
