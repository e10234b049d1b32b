"""What a person meets first: the set-up says in one sentence what is wrong, and an interrupted one is never used."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The set-up script, loaded as a module, with its environment in an empty folder."""
    monkeypatch.setenv("EDGEINFER_VENV", str(tmp_path / "venv"))
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretend_installation(setup_env, monkeypatch, failing=()):
    """Replaces pip and venv by recorders; returns what they were asked to do."""
    asked = []

    def run(command, **_):
        asked.append(" ".join(command))
        if "venv" in command:
            python = Path(setup_env.venv_python())
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        fails = next((text for part, text in failing if part in asked[-1]), None)
        return SimpleNamespace(returncode=1 if fails else 0, stdout=fails or "", stderr="")

    monkeypatch.setattr(setup_env.subprocess, "run", run)
    monkeypatch.setattr(setup_env, "NEEDED_GB", 0)
    return asked


def test_a_second_setup_installs_nothing(setup_env, monkeypatch):
    asked = pretend_installation(setup_env, monkeypatch)
    setup_env.ensure("dev")
    assert asked
    asked.clear()
    setup_env.ensure("dev")
    setup_env.ensure("base")
    assert asked == []


def test_an_interrupted_setup_starts_clean(setup_env, monkeypatch, capsys):
    asked = pretend_installation(setup_env, monkeypatch)
    real = setup_env.pip
    monkeypatch.setattr(setup_env, "pip", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        setup_env.ensure("base")
    leftover = Path(setup_env.VENV) / "half-installed"
    leftover.touch()
    assert not setup_env.is_ready("base")
    monkeypatch.setattr(setup_env, "pip", real)
    asked.clear()
    setup_env.ensure("base")
    assert "starting clean" in capsys.readouterr().out
    assert not leftover.exists()
    assert setup_env.is_ready("base")


def test_changed_pins_bring_the_environment_up_to_date(setup_env, monkeypatch):
    asked = pretend_installation(setup_env, monkeypatch)
    setup_env.ensure("base")
    Path(setup_env.stamp_path("base")).write_text("made from other pins")
    asked.clear()
    setup_env.ensure("base")
    assert any("requirements.txt" in command for command in asked)


@pytest.mark.parametrize(
    ("pip_says", "expected"),
    [
        (
            "Failed to establish a new connection: NewConnectionError",
            "check the network and run the same command again",
        ),
        ("ERROR: No matching distribution found for numpy", "pip could not install"),
    ],
)
def test_a_failed_install_is_one_sentence_and_leaves_nothing_ready(setup_env, monkeypatch, pip_says, expected):
    pretend_installation(setup_env, monkeypatch, failing=[("requirements.txt", pip_says)])
    with pytest.raises(setup_env.SetupError, match=expected):
        setup_env.ensure("base")
    assert not setup_env.is_ready("base")


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 13), (3, 14)])
def test_the_wrong_python_is_named(setup_env, monkeypatch, version):
    monkeypatch.setattr(setup_env.sys, "version_info", (*version, 0, "final", 0))
    with pytest.raises(setup_env.SetupError, match=r"Python 3\.11 or 3\.12 is needed"):
        setup_env.check_python()


def test_a_full_disk_is_named(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    with pytest.raises(setup_env.SetupError, match="free disk are needed"):
        setup_env.check_disk()


def test_make_help_lists_every_command():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M)) - {"setup-dev"}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets == set(re.findall(r"^  make ([a-z-]+)", shown, re.M))
    assert {"book", "serve", "test", "labs", "grade", "bench", "models"} <= targets


def test_the_setup_script_needs_only_the_standard_library():
    code = "import sys; sys.path.insert(0, 'tools'); import setup_env"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)
