"""The page for the help desk: search, one transaction, one trace, one explanation, over HTTP and read-only."""
