#!/bin/sh
# `make run`: a real session. Indexes the bundled logs into a fresh store and searches them.
# Usage: session.sh FOLDER, a relative path that may be deleted; run it from the project's root.
set -eu
folder=$1
rm -rf "$folder"
mkdir -p "$folder"
unset MAILSPAN_STORE
# Dates are read and shown in the zone of the reader: the same for everybody who runs this.
TZ=Europe/Madrid
export TZ

show() { # prints a command, then runs it
    printf '\n$ %s\n' "$1"
    sh -c "$1"
}

# Two mails of 2011: the lines carry no year, the queue IDs do.
show "mailspan index --store sqlite:///$folder/original.sqlite samples/original.mail.log"
show "mailspan search --store sqlite:///$folder/original.sqlite -f bob@foo.com -d '2011-12-15 00:00:00' -D '2011-12-17 00:00:00' -h smtp -r 10"

# Two Postfix servers and a Sendmail server; a greylisted mail: deferred, then sent.
show "mailspan index --store sqlite:///$folder/lab.sqlite --zone UTC --year 2026 tests/corpus/edge1.mail.log tests/corpus/edge2.mail.log tests/corpus/relay.mail.log"
show "mailspan search --store sqlite:///$folder/lab.sqlite -t grey1-d0076@sink.lab.test -v"
