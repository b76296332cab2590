"""The programs of a control plane, built by Go from their modules: kube-apiserver and its company, etcd, kwok.

Each set goes into build/cluster/NAME-VERSION-KEY, or the folder MAILSPAN_CACHE_DIR in place of build; the key is a hash of
all that says how it is built. Nothing is fetched but by the Go client, from the module proxy that it is set to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STAGED = re.compile(r"^\s*(k8s\.io/\S+)\s+=>\s+\./staging/", re.MULTILINE)
_GO_PLACES = (Path("/usr/local/go/bin/go"), Path("/usr/lib/go/bin/go"))


class BuildError(Exception):
    """A program cannot be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One module of which programs are made: its version and its main packages, by the name of what is built."""

    name: str
    module: str
    version: str
    packages: Mapping[str, str]
    link: str = "-s -w"
    staged_version: str = ""
    """Of the modules that its go.mod takes from its own folder ./staging; empty where there are none."""

    @property
    def folder(self) -> Path:
        """Where its programs are, once they are built."""
        said = json.dumps([self.module, self.version, dict(self.packages), self.link, self.staged_version])
        key = hashlib.sha256(said.encode()).hexdigest()[:12]
        return cache() / f"{self.name}-{self.version}-{key}"


KUBERNETES = "1.37.2"
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
_VERSION = "k8s.io/component-base/version"
RECIPES = (
    Recipe(
        "kubernetes",
        "k8s.io/kubernetes",
        KUBERNETES,
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        },
        # Without its version the server calls itself v0.0.0, and clients complain.
        f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES} -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}",
        f"0.{_MINOR}.2",
    ),
    Recipe("etcd", "go.etcd.io/etcd/server/v3", "3.6.16", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Recipe("kwok", "sigs.k8s.io/kwok", "0.8.0", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
)


def cache() -> Path:
    """Return the folder of all that is built here."""
    return Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build").absolute() / "cluster"


def find() -> dict[str, Path]:
    """Return the path of each program, building what is missing: some ten CPU minutes. Raises BuildError."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for recipe in RECIPES:
            if not recipe.folder.exists():
                print(f"building {', '.join(recipe.packages)} {recipe.version}", flush=True)
                _build(recipe)
    return {program: recipe.folder / program for recipe in RECIPES for program in recipe.packages}


def _build(recipe: Recipe) -> None:
    go = shutil.which("go") or next((str(place) for place in _GO_PLACES if place.exists()), None)
    if go is None:
        raise BuildError("go is missing: install Go, 1.26 or newer")
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        folder = Path(work)
        (folder / "go.mod").write_text(_go_mod(go, recipe, folder), encoding="utf-8")
        _call([go, "mod", "tidy"], folder)
        made = folder / "made"
        made.mkdir()
        for name, package in recipe.packages.items():
            options = ["-mod=readonly", "-trimpath", "-ldflags", recipe.link]
            _call([go, "build", *options, "-o", str(made / name), package], folder)
        made.rename(recipe.folder)


def _go_mod(go: str, recipe: Recipe, folder: Path) -> str:
    """A module of its own: `go install` refuses a module that replaces others. All versions follow from this one."""
    rows = ["module example.invalid/cluster", "", "go 1.26.0", ""]
    rows += [f"tool {package}" for package in recipe.packages.values()]
    rows += ["", f"require {recipe.module} v{recipe.version}"]
    if recipe.staged_version:
        said = _call([go, "mod", "download", "-json", f"{recipe.module}@v{recipe.version}"], folder)
        theirs = Path(json.loads(said)["GoMod"]).read_text(encoding="utf-8")
        rows += [f"replace {name} => {name} v{recipe.staged_version}" for name in _STAGED.findall(theirs)]
    return "\n".join([*rows, ""])


def _call(command: Sequence[str], folder: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command[1:3])}: {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    find()
