"""Tests, and the checkers that are run by hand."""
