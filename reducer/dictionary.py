"""The words that snapshots share, for zstandard: with them a small snapshot takes a third of its bytes.

A file of the package, made by `python -m bench.dictionary` (docs/adr/0011). Its ID is part of the snapshots' format: a
new dictionary gets a new ID and a file of its own, and is read beside this one as long as stored snapshots name it.
"""

from __future__ import annotations

from importlib.resources import files

import zstandard

DICTIONARY_ID = 3

DICTIONARY = zstandard.ZstdCompressionDict(files("reducer").joinpath(f"snapshot-{DICTIONARY_ID}.dict").read_bytes())
