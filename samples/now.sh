#!/bin/sh
# Prints the log of one mail that a Postfix server sent just now, for trying things out: `sh samples/now.sh >> FILE`.
# Stamps are in UTC and say so. Run again, it prints another mail.
set -eu
at=$(date -u +%Y-%m-%dT%H:%M:%SZ)
mail=$(date -u +%Y%m%d%H%M%S).$$
id=$(printf '%010X' "$$")
line() { printf '%s mx1.example.com postfix/%s: %s: %s\n' "$at" "$1" "$id" "$2"; }

line 'smtpd[101]' 'client=mua.example.com[192.0.2.10]'
line 'cleanup[102]' "message-id=<$mail@example.com>"
line 'qmgr[103]' 'from=<bob@example.com>, size=1423, nrcpt=1 (queue active)'
line 'smtp[104]' 'to=<alice@example.net>, relay=mx.example.net[198.51.100.7]:25, delay=0.9, delays=0.1/0/0.3/0.5, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 9C41E2A0D7)'
line 'qmgr[103]' 'removed'
