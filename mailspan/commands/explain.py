"""`mailspan explain`: what happened to one mail on one server, in plain words."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

import orjson

from mailspan.commands.reading import open_reader, say_what_is_missing
from mailspan.commands.search import add_store, write
from mailspan.terminal import use_colours
from search.explain import explain
from search.explain_text import explain_text
from search.output import Layout, json_line, mail_of, text_form
from search.query import parse_query
from search.select import meant, select

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from sink.store import Document

DESCRIPTION = "Say in plain words what happened to a mail on one server. Several mails are listed, as in search."

_INCOMPLETE = 3
_MOST_LISTED = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    add = parser.add_argument
    add("term", metavar="ID", help="a queue id, HOST/QUEUE_ID, the id of a document, or a message id")
    add("--json", action="store_true", help="print each explanation as one line of JSON (docs/explain.md)")
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Explain and print; return 0 where something was found, else 1, and 3 where a part of the store did not answer.

    Raises UsageError and StoreError.
    """
    query = parse_query({"term": args.term}, now=datetime.now(UTC), probes=True, mailboxes=True, labels={"term": "ID"})
    with open_reader(args.store, args.settings) as reader:
        found = [orjson.loads(each) for each in reader.newest(select(query), _MOST_LISTED)]
        mails = [list(pages) for _, pages in groupby(meant(found, args.term), key=mail_of)]
        status = write(_output(mails, query.now_ms, as_json=args.json), sys.stdout.buffer)
        return _INCOMPLETE if say_what_is_missing(reader) else status


def _output(mails: list[list[Document]], now_ms: int, *, as_json: bool) -> Iterator[bytes]:
    if as_json:
        for pages in mails:
            encoded = orjson.dumps(explain(pages, now_ms=now_ms))
            yield json_line(encoded, for_terminal=sys.stdout.isatty())
    elif len(mails) == 1:
        yield explain_text(explain(mails[0], now_ms=now_ms)).encode()
    elif mails:
        layout = Layout(now_ms=now_ms, colours=use_colours(sys.stdout, os.environ))
        for text in text_form((page for pages in mails for page in pages), layout):
            yield text.encode()
        sys.stderr.write(f"{len(mails)} mails are meant; ask for one by HOST/QUEUE_ID, or by its id (--json has it)\n")
