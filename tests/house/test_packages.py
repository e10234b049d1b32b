"""The first cell's question: is everything there and new enough? One sentence says what is not."""

import importlib.metadata
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
from edgeinfer import packages

ROOT = Path(__file__).resolve().parents[2]


def test_what_the_project_declares_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [f"{name}>={oldest}" for name, oldest in packages.declared()] == project["dependencies"]


def test_an_installed_copy_without_the_clone_asks_for_the_same(monkeypatch, tmp_path):
    declared = packages.declared()
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "lib" / "edgeinfer" / "packages.py"))
    lines = [f"{name}>={oldest}" for name, oldest in declared] + ['distributed>=2024.1; extra == "cluster"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert packages.declared() == declared


def test_in_this_environment_nothing_is_said():
    packages.check()


def test_an_old_package_is_named_with_what_to_do(monkeypatch):
    true = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.3.1+cu121" if name == "torch" else true(name))
    with pytest.raises(
        ImportError, match=r"needs torch 2\.4 or newer, but .* has torch 2\.3\.1\+cu121; run %pip install"
    ):
        packages.check()


def test_a_version_is_compared_by_its_numbers(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "100.0rc1")
    packages.check()


def test_a_missing_package_is_named(monkeypatch):
    true = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("numba", "yaml") else true(name))
    with pytest.raises(
        ImportError, match=r"numba 0\.60 or newer and PyYAML 6 or newer, but .* has no numba and no PyYAML"
    ):
        packages.check()


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(ImportError, match=r"Python 3\.11 or newer, but this is Python 3\.10"):
        packages.check()
