"""The fuzzer: seeded hostile logs of all MTAs through the whole core; `python -m tests.fuzz --help`.

lines.py makes the lines, checks.py says what must hold of them, __main__.py runs, bisects and replays.
"""
