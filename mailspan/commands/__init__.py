"""The commands: each a module with `add_arguments` and `run`; `mailspan/__main__.py` lists them."""
