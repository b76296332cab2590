"""`mailspan dead-letter list` and `dead-letter replay`: what no stage could use, and to try it again.

`list` shows letters that were not replayed, newest first. `replay` writes them to where they came from; see
docs/dead-letters.md for what becomes of them there.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import orjson

from mailspan.errors import UsageError
from mailspan.kafka_settings import client_config
from mailspan.terminal import sanitise, sanitise_json
from mailspan.topics import DEAD_LETTER, topic_name
from sink.kafka_topic import TopicReader, TopicWriter
from sink.letters import Choice, Contents, json_of, letter_of, line_of, portions
from sink.place import Place, offsets_of
from sink.replay import Replay

if TYPE_CHECKING:
    import argparse
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from mailspan.settings import Settings
    from sink.letters import Entry, Letter

DESCRIPTION = (
    "List the records that no stage could use, newest first, or write them to where they came from, to be tried again."
    " Letters that were replayed are left out."
)

_FOUND, _NOTHING_FOUND, _FAILED = 0, 1, 3
_NEWEST = 100
_GROUP = "mailspan-dead-letter"
_PORTION_BYTES = 16 << 20
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})")
_POSITIVE = re.compile("0*[1-9][0-9]{0,8}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dead-letter`."""
    add = parser.add_argument
    add("action", metavar="ACTION", choices=("list", "replay"), help="list or replay")
    add("--at", metavar="P:O", action="append", default=[], help="the letter at this place, as `list` shows; again")
    add("--stage", metavar="NAME", default="", help="only those of one stage: reduce, sink")
    add("--reason", metavar="TEXT", default="", help="only those with this text in their reason")
    add("--replayed", action="store_true", help="also those that were replayed before")
    add("-r", dest="newest", metavar="N", help=f"list: at most so many (default: {_NEWEST})")
    add("--json", action="store_true", help="list: one JSON object a line, with the value")


def run(args: argparse.Namespace) -> int:
    """List or replay; return 0, 1 where there is no such letter, 3 where one was not taken.

    Raises UsageError and KafkaUseError.
    """
    if args.action == "replay" and (args.json or args.newest is not None):
        raise UsageError("-r, --json: only with list")
    newest = _NEWEST if args.newest is None else _positive(args.newest)
    choice = Choice(frozenset(map(_place, args.at)), args.stage, args.reason)
    settings: Settings = args.settings
    config, topic = client_config(settings), topic_name(settings.topic_prefix, DEAD_LETTER)
    with TopicReader(config, topic, _GROUP) as reader:
        contents = Contents(topic, choice)
        for record in reader.read(reader.ranges()):
            contents.add(record)
        entries = contents.entries(with_replayed=args.replayed)
        if not entries:
            sys.stderr.write("nothing found\n")
            return _NOTHING_FOUND
        if args.action == "list":
            return _list(reader, entries, contents.replayed, newest, as_json=args.json)
        with TopicWriter(config) as writer:
            return _replay(Replay(config, settings.topic_prefix, _GROUP, reader, writer), entries)


def _list(reader: TopicReader, entries: Sequence[Entry], replayed: set[Place], newest: int, *, as_json: bool) -> int:
    for letter in _letters(reader, entries[::-1][:newest]):
        is_replayed = letter.place in replayed
        if as_json:
            line = orjson.dumps(json_of(letter, is_replayed=is_replayed)).decode()
            print(sanitise_json(line) if sys.stdout.isatty() else line)
        else:
            print(sanitise(line_of(letter, None, is_replayed=is_replayed)))
    if len(entries) > newest:
        _say(f"{len(entries) - newest} older letters are not shown; see -r")
    return _FOUND


def _letters(reader: TopicReader, entries: Sequence[Entry]) -> Iterator[Letter]:
    """Yield the letters in the order of the entries; only some megabytes of them are held at a time."""
    for portion in portions(entries, _PORTION_BYTES):
        places = [entry.place for entry in portion]
        found = {letter.place: letter for letter in map(letter_of, reader.at(offsets_of(places)))}
        yield from (found[place] for place in places if place in found)


def _replay(replay: Replay, entries: Sequence[Entry]) -> int:
    try:
        replay.run(entry.place for entry in entries)
    finally:
        count = replay.replayed.total()
        by_topic = ", ".join(f"{number} to {topic}" for topic, number in sorted(replay.replayed.items()))
        print(f"replayed {_letters_in_words(count)}{': ' if by_topic else ''}{by_topic}")
        _say_reasons("cannot be replayed", replay.left)
        _say_reasons("refused by the broker", replay.refused)
    if replay.refused:
        return _FAILED
    return _FOUND if count else _NOTHING_FOUND


def _say_reasons(what: str, counts: Counter[str]) -> None:
    for reason, count in sorted(counts.items()):
        _say(f"{_letters_in_words(count)} {what}: {reason}")


def _letters_in_words(count: int) -> str:
    return "1 letter" if count == 1 else f"{count} letters"


def _place(text: str) -> Place:
    match = _PLACE.fullmatch(text)
    if match is None:
        raise UsageError(f"--at {text!r}: expected PARTITION:OFFSET, as `mailspan dead-letter list` shows it")
    return Place(int(match[1]), int(match[2]))


def _positive(text: str) -> int:
    if not _POSITIVE.fullmatch(text):
        raise UsageError(f"-r {text!r}: expected a whole number from 1 to 999999999")
    return int(text)


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
