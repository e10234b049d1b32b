"""Command line of the grader: `python -m edgeinfer.grading grade LAB SUBMISSIONS --out REPORT`."""

import argparse
import json
import sys
from pathlib import Path

from edgeinfer.grading.exercise import EXERCISES, import_file
from edgeinfer.grading.grade import ROOT, GradingError, grade_class
from edgeinfer.grading.sandbox import Sandbox


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgeinfer.grading", description="Grades a class, or tests the exercises."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("lab", help="name of the lab, for example lab01_quantization")
    grade.add_argument("submissions", help="folder with one entry per student, or the zip file of the class")
    grade.add_argument(
        "--out",
        type=Path,
        default=Path("reports/grades"),
        help="folder of the report (one folder per lab is made in it)",
    )
    grade.add_argument("--solutions", type=Path, default=ROOT / "solutions", help="folder of the solution notebooks")
    grade.add_argument("--labs", type=Path, default=ROOT / "labs", help="folder of the released notebooks")
    grade.add_argument("--exercises", type=Path, help="file with the exercises, instead of the library's own")
    grade.add_argument("--sandbox", choices=["bubblewrap", "limits"], help="insist on one way to run answers")
    grade.add_argument("--workers", type=int, default=0, help="answers at the same time (default: one per core)")
    grade.add_argument("--scheduler", default="", help="address of a Dask scheduler, for example tcp://host:8786")
    grade.add_argument("--partial", action="store_true", help="let wrong answers keep a part of their points")
    mutants = commands.add_parser("mutants", help="run the mutation suite of a lab and print its score")
    mutants.add_argument("lab")
    commands.add_parser("score", help="run all mutation suites and write the table of the instructors' page")
    options = parser.parse_args(arguments)
    try:
        if options.command == "score":
            return run_score()
        return run_mutants(options.lab) if options.command == "mutants" else run_grade(options)
    except (GradingError, FileNotFoundError, RuntimeError) as error:
        print(f"grading: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngrading: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def run_grade(options: argparse.Namespace) -> int:
    if not options.lab or not options.submissions:
        raise GradingError("say which lab and which folder: make grade LAB=lab01_quantization SUBMISSIONS=folder")
    out = options.out / options.lab
    records = grade_class(
        options.exercises or options.lab,
        Path(options.submissions),
        out,
        solutions=options.solutions,
        labs=options.labs,
        sandbox=Sandbox(options.sandbox),
        workers=options.workers,
        partial_points=options.partial,
        scheduler=options.scheduler,
    )
    full = sum(r["score"] == r["points"] for r in records)
    print(f"{len(records)} submissions, {full} with full points; sheets: {out}/grades.csv, pages: {out}/index.html")
    return 0


def run_mutants(lab: str) -> int:
    from edgeinfer.grading import mutants as suite

    file = ROOT / "tests" / "grading" / "mutants" / f"{lab.split('_')[0]}.py"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in EXERCISES.glob("lab*.py"))) or "none"
        raise FileNotFoundError(f"no mutation suite {file.name}; labs with exercises: {known}")
    mutants = import_file(file).mutants
    outcomes = suite.run(mutants)
    print(suite.table(outcomes))
    problems = [f"{o.mutant.exercise}/{o.mutant.name}: {o.problem}" for o in outcomes if o.problem] + suite.too_few(
        mutants
    )
    print("\n".join(problems) or "every answer is judged as it must be")
    return 1 if problems else 0


def run_score() -> int:
    from edgeinfer.grading import course
    from edgeinfer.grading import mutants as suite

    score = {}
    for file in sorted((ROOT / "tests" / "grading" / "mutants").glob("lab*.py")):
        score[file.stem] = suite.counts(suite.run(import_file(file).mutants))
        print(
            f"{file.stem}: {sum(n['rejected'] for n in score[file.stem].values())} wrong answers rejected", flush=True
        )
    course.SCORE.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
    print(f"written: {course.SCORE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
