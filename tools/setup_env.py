"""Makes the local environment `.venv` that every other command uses, once.

Standard library only, and readable by any Python 3, because it runs before anything is installed: it is also the place
that says in one sentence what is wrong with a machine. It installs nothing outside `.venv`.

An interrupted run leaves the marker `.venv/installing`; the next run sees it and starts from an empty folder, so
nothing half-made is ever used. A finished layer leaves a stamp with the hash of what it was made from; a second run
does nothing.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.environ.get("EDGEINFER_VENV", os.path.join(ROOT, ".venv"))
SUPPORTED = ((3, 11), (3, 12))
NEEDED_GB = 4
LAYERS = {"base": "requirements.txt", "dev": "requirements-dev.txt"}


class SetupError(Exception):
    """A sentence for the person at the keyboard: what was expected, what came, what to do."""


def say(text):
    print("setup: " + text, flush=True)


def check_python():
    if sys.version_info[:2] not in SUPPORTED:
        raise SetupError(
            "Python 3.11 or 3.12 is needed, but %s is Python %s; "
            "install one of them and run `make PYTHON=python3.11 ...`." % (sys.executable, platform.python_version())
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "Python's venv module is needed, but this Python has none; "
            "on Debian or Ubuntu: apt-get install python3-venv."
        ) from None


def check_disk():
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            "about %d GB of free disk are needed, but %s has %.1f GB; free some and run again."
            % (NEEDED_GB, ROOT, free)
        )


def fingerprint(layer):
    """Hash of everything that the layer is made from: change one and the layer is brought up to date."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in ("requirements.txt", LAYERS[layer], "constraints.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as handle:
            digest.update(handle.read())
    return digest.hexdigest()


def stamp_path(layer):
    return os.path.join(VENV, "stamp-" + layer)


def is_ready(layer):
    try:
        with open(stamp_path(layer)) as handle:
            return handle.read() == fingerprint(layer) and os.path.exists(venv_python())
    except OSError:
        return False


def venv_python():
    return os.path.join(VENV, "bin", "python")


def marker():
    return os.path.join(VENV, "installing")


@contextlib.contextmanager
def only_one():
    """Two makes at once would install into each other: the second waits for the first."""
    import fcntl

    path = VENV + ".lock"
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is running; waiting for it to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            os.unlink(path)


def pip(arguments, what, quiet_failure=False):
    """Runs pip; on failure raises one sentence, with pip's own last words below it."""
    command = [venv_python(), "-m", "pip", "--disable-pip-version-check", "install", "--no-input", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return True
    if quiet_failure:
        return False
    tail = "\n".join("    " + line for line in done.stdout.strip().splitlines()[-6:])
    network = re.search(
        r"NewConnectionError|ConnectTimeout|Temporary failure|ReadTimeout|Name or service|ProxyError|"
        r"Connection (?:refused|reset|broken)|Network is unreachable",
        done.stdout,
    )
    if network:
        raise SetupError(
            "the package index could not be reached while installing %s; check the network and run the same command "
            "again (it starts clean). pip's last words:\n%s" % (what, tail)
        )
    raise SetupError("pip could not install %s; its last words:\n%s" % (what, tail))


def torch_pin():
    with open(os.path.join(ROOT, "requirements.txt")) as handle:
        return re.search(r"^torch==\S+", handle.read(), re.M).group(0)


def cpu_index():
    """The extra index with CPU builds of torch; it is written in .binder/requirements.txt only."""
    try:
        with open(os.path.join(ROOT, ".binder", "requirements.txt")) as handle:
            found = re.search(r"^--extra-index-url\s+(\S+)", handle.read(), re.M)
    except OSError:
        return None
    return found.group(1) if found else None


def install_torch():
    """torch first: on Linux on x86-64 without a GPU the small CPU build, everywhere else the ordinary one."""
    pin = torch_pin()
    wants_cpu = sys.platform == "linux" and platform.machine() == "x86_64" and not shutil.which("nvidia-smi")
    constraints = ["-c", os.path.join(ROOT, "constraints.txt")]
    if wants_cpu:
        say("installing the CPU build of %s" % pin)
        cpu = [pin + "+cpu", *constraints]
        if pip(cpu, pin, quiet_failure=True):
            return
        index = cpu_index()
        if index and pip([*cpu, "--extra-index-url", index, "--retries", "1"], pin, quiet_failure=True):
            return
        say("no CPU build found; taking the index's own build (on Linux it brings CUDA: several GB)")
    pip([pin, *constraints], pin)


def create():
    say("making %s with Python %s" % (os.path.relpath(VENV, ROOT), platform.python_version()))
    if os.path.isdir(VENV):
        shutil.rmtree(VENV)
    os.makedirs(VENV)
    with open(marker(), "w") as handle:
        handle.write("an installation was started here and has not ended\n")
    done = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError("Python could not make a virtual environment: " + (done.stderr or done.stdout).strip()[-300:])


def ensure(layer):
    check_python()
    with only_one():
        if is_ready(layer) and not os.path.exists(marker()):
            return
        check_disk()
        if os.path.exists(marker()):
            say("an earlier installation did not end; starting clean")
        if os.path.exists(marker()) or not os.path.exists(venv_python()):
            create()
        with open(marker(), "w") as handle:
            handle.write(layer + "\n")
        install_torch()
        say("installing %s (about two minutes)" % LAYERS[layer])
        pip(["-r", os.path.join(ROOT, LAYERS[layer]), "-c", os.path.join(ROOT, "constraints.txt")], LAYERS[layer])
        pip(["--no-deps", "-e", ROOT], "the library in lib/")
        checked = subprocess.run([venv_python(), "-m", "pip", "check"], capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise SetupError("the installed packages do not fit together: " + checked.stdout.strip()[-400:])
        for done in ("base", layer):
            temporary = stamp_path(done) + ".new"
            with open(temporary, "w") as handle:
                handle.write(fingerprint(done))
            os.replace(temporary, stamp_path(done))
        os.unlink(marker())
        say("ready")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layer", choices=sorted(LAYERS), help="base: book and labs; dev: tests and benchmarks as well")
    try:
        ensure(parser.parse_args().layer)
    except SetupError as error:
        sys.exit("setup: " + str(error))
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; the next run starts clean.")


if __name__ == "__main__":
    main()
