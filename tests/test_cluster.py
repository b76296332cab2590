"""What `make cluster-test` is made of, as far as it can be seen without a control plane."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from tests.cluster import fake_nodes
from tests.cluster.broken import BROKEN
from tests.cluster.programs import RECIPES, Recipe
from tests.kubernetes import named, objects, renderer


@pytest.mark.skipif(renderer() is None, reason="neither kubectl nor kustomize is here")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_manifest_is_made_of_what_is_there(name: str) -> None:
    kind, object_name, change, _ = BROKEN[name]
    found = named(objects("production"), kind, object_name)
    before = deepcopy(found)
    change(found)
    assert found != before


@pytest.mark.parametrize("recipe", RECIPES, ids=[each.name for each in RECIPES])
def test_what_is_built_otherwise_is_built_elsewhere(recipe: Recipe) -> None:
    others = [replace(recipe, link="-s"), replace(recipe, version="1.0.0"), replace(recipe, staged_version="0.1.0")]
    assert len({each.folder for each in (recipe, *others)}) == 4


def test_fake_nodes_are_in_all_zones_and_some_are_mail_servers() -> None:
    labels = [each["metadata"]["labels"] for each in fake_nodes.nodes()]
    zones = [each[fake_nodes.ZONE] for each in labels]
    assert [zones.count(zone) for zone in sorted(set(zones))] == [fake_nodes.NODES_PER_ZONE] * fake_nodes.ZONES
    assert sum(fake_nodes.MAIL_SERVER in each for each in labels) == fake_nodes.MAIL_SERVERS
