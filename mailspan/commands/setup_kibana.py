"""The part of `mailspan setup` that works on Kibana: its data view, saved searches and dashboards.

They are made here from the tables of sink/kibana_objects.py for the index prefix of the settings; the file in
deploy/kibana is the same for the default prefix, to be imported by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sink.kibana import Kibana
from sink.kibana_ndjson import ndjson, saved_objects

if TYPE_CHECKING:
    from sink.kibana_settings import KibanaConnection


def set_up(connection: KibanaConnection, prefix: str, *, is_dry_run: bool) -> None:
    """Import all objects over those that are there, and say so. Raises StoreError."""
    kibana = Kibana(connection)
    version = kibana.version()
    kibana.check_space()
    objects = saved_objects(prefix)
    if not is_dry_run:
        kibana.import_objects(ndjson(objects), objects)
    done = "would be imported" if is_dry_run else "imported"
    for each in objects:
        kind, title = each["type"], each["attributes"]["title"]
        print(f"{'data view' if kind == 'index-pattern' else kind} {title}: {done}")
    print(f"Kibana {version} at {connection.shown}, space {connection.space}: {len(objects)} objects {done}")
