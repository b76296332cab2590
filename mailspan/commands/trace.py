"""`mailspan trace`: one mail over all hosts, as a tree, with how it ended for each recipient and what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from mailspan.commands.reading import open_reader, say_what_is_missing
from mailspan.commands.search import add_flags, query_of, write
from mailspan.errors import UsageError
from mailspan.terminal import use_colours
from search.output import json_line, mail_of
from search.query import FLAGS
from search.select import meant, select
from search.trace import json_trace, traces_of
from search.trace_text import Page, json_match, matches_text, trace_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from search.trace import Trace

DESCRIPTION = (
    "Follow a mail over all hosts and say how it ended for each recipient. "
    "Several mails are listed: --all draws each of them."
)

_INCOMPLETE = 3
_MOST_SEEDS = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `trace`; `parser` was made with add_help=False, since -h is the host."""
    add = parser.add_argument
    add("term", metavar="ID", nargs="?", help="a queue id, HOST/QUEUE_ID, or message id")
    add_flags(parser)
    add("--all", action="store_true", help="where several mails are meant, draw each of them")
    add("-v", "--verbose", action="store_true", help="every recipient, the servers' own words, and all evidence")
    add("--json", action="store_true", help="print each trace as one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Trace and print; return 0 where something was found, else 1, and 3 where a part of the store did not answer.

    Raises UsageError and StoreError.
    """
    query = query_of(args, term="ID")
    if query.term is not None:  # which may be known to a mailbox server only
        query = replace(query, mailboxes=True)
    if all(getattr(args, name) is None for name in FLAGS):
        raise UsageError("which mail? give a queue id or message id, or flags as -f, -t and -d (see --help)")
    with open_reader(args.store, args.settings) as reader:
        seeds = _meant(reader.newest(select(query), _MOST_SEEDS), args.term or args.queue_id)
        gaps = tuple(reader.gaps)  # of the days that were asked for; a walk asks for some around them as well
        traces = traces_of(reader, seeds, args.settings.relay_hosts)
        if len(seeds) >= _MOST_SEEDS:
            sys.stderr.write(f"mailspan: of more than {_MOST_SEEDS} mails, the newest are traced; ask for fewer\n")
        status = write(_output(args, traces), sys.stdout.buffer)
        return _INCOMPLETE if say_what_is_missing(reader, gaps) else status


def _meant(encoded: Sequence[bytes], asked: str | None) -> Sequence[bytes]:
    if asked is None:
        return encoded
    documents = [orjson.loads(each) for each in encoded]
    mails = {mail_of(each) for each in meant(documents, asked)}
    return [each for each, document in zip(encoded, documents, strict=True) if mail_of(document) in mails]


def _output(args: argparse.Namespace, traces: Sequence[Trace]) -> Iterator[bytes]:
    is_terminal = sys.stdout.isatty()
    draws = args.all or len(traces) == 1
    if args.json:
        for trace in traces:
            found = json_trace(trace) if draws else json_match(trace)
            yield json_line(orjson.dumps(found), for_terminal=is_terminal)
        return
    page = Page(
        width=shutil.get_terminal_size().columns if is_terminal else None,
        verbose=args.verbose,
        colours=use_colours(sys.stdout, os.environ),
    )
    if traces and not draws:
        yield matches_text(traces, page).encode()
        return
    for number, trace in enumerate(traces):
        yield ("\n" if number else "").encode() + trace_text(trace, page).encode()
