"""Runs every benchmark of this folder in a process of its own (peers must not disturb each other's thread pools).

Each benchmark prints its table and writes `results/NAME.json`, which the book's benchmark page shows.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def benchmarks() -> list[str]:
    return sorted(path.stem for path in HERE.glob("[!_]*.py") if path.stem != "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which of: {', '.join(benchmarks())} (default: all)")
    names = parser.parse_args().names or benchmarks()
    unknown = sorted(set(names) - set(benchmarks()))
    if unknown:
        sys.exit(f"bench: there is no benchmark {', '.join(unknown)}; choose from {', '.join(benchmarks())}.")
    failed = []
    for name in names:
        print(f"\n=== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"bench: {', '.join(failed)} failed; the results of the others were written.")


if __name__ == "__main__":
    main()
