"""`mailspan search`: find transactions and print them, newest first."""

from __future__ import annotations

import gc
import os
import re
import select as system_select
import sys
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

import orjson

from mailspan.commands.reading import open_reader, say_what_is_missing
from mailspan.errors import UsageError
from mailspan.terminal import use_colours
from search.counts import FIELDS as COUNT_FIELDS
from search.counts import count_by, field_named
from search.output import Layout, count_lines, json_line, mail_of, text_form
from search.query import FLAGS, STATES, parse_query
from search.select import select
from sink.elasticsearch_settings import is_elasticsearch
from sink.sqlite_reader import SqliteReader
from sink.sqlite_schema import path_of_store
from sink.terms import OUTCOMES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from search.query import Query
    from sink.store import DocumentReader

    Answer = Callable[[DocumentReader, Query], Iterable[bytes]]
    Show = Callable[..., Iterable[bytes]]

DESCRIPTION = "Find transactions, newest first. Every flag that is given must hold."

GARBAGE_THRESHOLD = 100_000  # nothing makes reference cycles; a count by a field with many values makes many tuples
_FOUND, _NOTHING_FOUND, _INCOMPLETE = 0, 1, 3
_DEFAULT_NEWEST = 100
_POLL_MS = 500
_POSITIVE = re.compile("0*[1-9][0-9]{0,8}")
_NO_HOST = "\0"  # what -h holds when it was given without a value; no argument can hold a NUL

_WHEN = "'YYYY-MM-DD HH:MM:SS', RFC 3339, a date, today, yesterday, 2h, 7d"
# Flags with a value: short, long, the name in FLAGS, what the value is, and the help.
_VALUE_FLAGS = (
    ("-f", "--from", "sender", "ADDRESS", "envelope sender: an address, @domain, or <> for the null sender"),
    (
        "-t",
        "--to",
        "recipient",
        "ADDRESS",
        "recipient, final or original: an address or @domain; with -o, how its last attempt ended",
    ),
    ("-d", "--since", "since", "TIME", f"from this time on: {_WHEN}"),
    ("-D", "--until", "until", "TIME", "before this time, in the same forms; a date means to its end"),
    ("-m", "--message-id", "message_id", "ID", "message id, with or without its <>"),
    ("-c", "--client", "client", "CLIENT", "who handed the mail over: a name, an IP, or a CIDR network"),
    ("-i", "--queue-id", "queue_id", "ID", "queue id"),
    ("-l", "--relay", "relay", "RELAY", "whom the mail was handed to: a name, an IP, local or none"),
    ("-o", "--outcome", "outcome", "OUTCOME", f"how it ended for a recipient: {', '.join(OUTCOMES)}"),
    (None, "--dsn", "dsn", "CODE", "enhanced status code, or its first parts: 5.7 means 5.7.*"),
    (None, "--subject", "subject", "TEXT", "text in the subject, in any case"),
    (None, "--state", "state", "STATE", f"{', '.join(STATES)} (open, but long without news)"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which mail is meant; `parser` was made with add_help=False, since -h is the host."""
    add = parser.add_argument
    for short, long, name, metavar, text in _VALUE_FLAGS:
        add(*filter(None, (short, long)), dest=name, metavar=metavar, help=text)
    # A missing value is found by query_of(), which can say more than argparse does.
    add(
        "-h",
        "--host",
        nargs="?",
        const=_NO_HOST,
        metavar="HOST",
        help="mail server, by its full or short name (help is --help)",
    )
    add(
        "--started",
        action="store_true",
        help="-d and -D look at the start only, not at all the time until the last update",
    )
    add("--probes", action="store_true", help="also address verification probes")
    add("--mailboxes", action="store_true", help="also what mailbox servers did with mail handed to them")
    add_store(parser)


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says what is read."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="sqlite:///PATH, https://HOST:9200 (default: MAILSPAN_STORE, else your own file)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `search`."""
    add = parser.add_argument
    add("term", metavar="TERM", nargs="?", help="a queue id, message id, address or IP")
    add_flags(parser)
    add(
        "-r",
        "--newest",
        metavar="N",
        default=str(_DEFAULT_NEWEST),
        help="at most the newest N mails (default 100)",
    )
    add("--count", action="store_true", help="print how many there are")
    add("--by", metavar="FIELD", help=f"with --count, by this field: {', '.join(COUNT_FIELDS)}")
    add("-v", "--verbose", action="store_true", help="also dates, outcomes, status codes, links and notes")
    add("--json", action="store_true", help="print the documents, one a line")
    add("--follow", action="store_true", help="go on: print what comes into the store, until interrupted")


def query_of(args: argparse.Namespace, *, term: str = "TERM") -> Query:
    """Return the query that the flags of `add_flags`, and a TERM, ask for; `term` is its name. Raises UsageError."""
    if args.host == _NO_HOST:
        raise UsageError("-h needs the name of a host, as in -h smtp; for help use --help")
    return parse_query(
        {name: getattr(args, name) for name in FLAGS},
        now=datetime.now(UTC),
        started_only=args.started,
        probes=args.probes,
        mailboxes=args.mailboxes,
        labels={"term": term},
    )


def run(args: argparse.Namespace) -> int:
    """Search and print; return 0 where something was found, else 1, and 3 where a part of the store did not answer.

    Raises UsageError and StoreError.
    """
    gc.set_threshold(GARBAGE_THRESHOLD)
    query = query_of(args)
    newest = _positive("-r", args.newest)
    if args.follow:
        if args.count or args.by is not None:
            raise UsageError("--follow: not with --count, which ends")
        if is_elasticsearch(args.store or ""):
            raise UsageError("--follow: not on Elasticsearch; ask again, or follow a store of this machine")
        with SqliteReader(path_of_store(args.store, os.environ)) as reader:
            return _follow(reader, query, newest, _show(args), sys.stdout.buffer)
    answer = _answer(args, newest)
    with open_reader(args.store, args.settings) as reader:
        status = write(answer(reader, query), sys.stdout.buffer)
        return _INCOMPLETE if say_what_is_missing(reader) else status


def _answer(args: argparse.Namespace, newest: int) -> Answer:
    """Return what gives the output in chunks, once all flags are known to be right."""
    if args.by is not None:
        field = field_named(args.by)
        if not args.count:
            raise UsageError(f"--by {args.by!r}: only with --count, as in --count --by {args.by}")
        if field is None:
            raise UsageError(f"--by {args.by!r}: expected one of {', '.join(COUNT_FIELDS)}")
        return lambda reader, query: _counts_by(reader, query, field, as_json=args.json)
    if args.count:
        return lambda reader, query: _count(reader, query, as_json=args.json)
    show = _show(args)
    return lambda reader, query: show(reader.newest(select(query), newest), query)


def _show(args: argparse.Namespace) -> Show:
    """Return what makes output of documents: JSON lines or text."""
    if args.json:
        for_terminal = sys.stdout.isatty()
        return lambda documents, _query, goes_on=False: (  # noqa: ARG005 - lines need nothing between them
            json_line(each, for_terminal=for_terminal) for each in documents
        )
    colours = use_colours(sys.stdout, os.environ)
    return lambda documents, query, goes_on=False: (
        text.encode()
        for text in text_form(
            (orjson.loads(each) for each in documents),
            Layout(now_ms=query.now_ms, verbose=args.verbose, colours=colours),
            goes_on=goes_on,
        )
    )


def _follow(reader: SqliteReader, query: Query, newest: int, show: Show, output: BinaryIO) -> int:
    """Print the newest, the oldest of them first, then each document that comes into the store or changes there.

    Ends quietly when it is interrupted or terminated, or when nobody reads its output any more. Waits between looks,
    and looks for documents only when the store has changed.
    """
    selection = select(query)
    nobody_reads = system_select.poll()
    nobody_reads.register(output.fileno(), 0)  # only what is told unasked: errors and hang-ups
    try:
        change, written = reader.change(), reader.last_written()
        found = reader.newest(selection, newest)
        known = set(found)  # what was written between these two lines is not printed twice
        mails = [list(pages) for _, pages in groupby(found, key=lambda each: mail_of(orjson.loads(each)))]
        fresh: Iterable[bytes] = [page for pages in reversed(mails) for page in pages]
        goes_on = False
        while True:
            for chunk in show(fresh, query, goes_on=goes_on):
                output.write(chunk)
                goes_on = True
            output.flush()
            while (now := reader.change()) == change:
                if nobody_reads.poll(_POLL_MS):
                    return _FOUND
            change, last = now, reader.last_written()
            fresh = [each for each in reader.written_after(selection, written, last) if each not in known]
            written, known = last, set()
    except BrokenPipeError:
        _forget(output)
    except (KeyboardInterrupt, SystemExit):
        pass  # asked to end: nothing is left to do
    return _FOUND


def _count(reader: DocumentReader, query: Query, *, as_json: bool) -> Iterator[bytes]:
    count = reader.count(select(query))
    if count:
        yield orjson.dumps({"count": count}) + b"\n" if as_json else b"%d\n" % count


def _counts_by(reader: DocumentReader, query: Query, field: str, *, as_json: bool) -> Iterator[bytes]:
    for_terminal = sys.stdout.isatty()
    for line in count_lines(count_by(reader, select(query), field), as_json=as_json, for_terminal=for_terminal):
        yield line.encode()


def write(chunks: Iterable[bytes], output: BinaryIO) -> int:
    """Write an answer; return 0, or 1 where there was none, which is said. Who stops reading has seen enough."""
    status = _NOTHING_FOUND
    try:
        for chunk in chunks:
            output.write(chunk)
            status = _FOUND
        output.flush()
    except BrokenPipeError:
        _forget(output)
        return _FOUND
    if status == _NOTHING_FOUND:
        sys.stderr.write("nothing found\n")
    return status


def _forget(output: BinaryIO) -> None:
    """Who reads our output has seen enough: what is buffered must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def _positive(flag: str, text: str) -> int:
    if not _POSITIVE.fullmatch(text):
        raise UsageError(f"{flag} {text!r}: expected a whole number from 1 to 999999999")
    return int(text)
