"""Score result files locally: ``vis-score ytvis|davis|ytvos ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError

# What computes is imported when it is used: --help answers without numpy.
PROTOCOLS = ("2016", "2017", "semi", "2019", "unsup", "unsup-all")

EPILOG = """\
examples:
  vis-score ytvis --ground-truth valid.json --results results.json
  vis-score davis --protocol 2017 --ground-truth DAVIS --results results/
  vis-score ytvos --ground-truth train/Annotations --results results/ \\
      --meta train/meta.json --videos train/local_val.txt

The table shows per cent; --json FILE writes fractions in full precision. Bad input ends with one
line and exit code 2.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands."""
    parser = argparse.ArgumentParser(
        prog="vis-score",
        description="Score result files locally, with the official numbers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="ytvis|davis|ytvos")
    ytvis = commands.add_parser("ytvis", help="YouTube-VIS and OVIS: AP and AR over tubes")
    davis = commands.add_parser("davis", help="DAVIS: region similarity J and boundary accuracy F")
    ytvos = commands.add_parser(
        "ytvos", help="YouTube-VOS: G, the mean of J and F, seen and unseen"
    )
    _common(
        ytvis,
        "json with videos, categories and annotations",
        "results.json, its zip, or a folder of vis run",
    )
    _common(davis, "DAVIS root or a folder of sequences", "folder of <sequence>/<frame>.png")
    _common(ytvos, "folder of <video>/<frame>.png for all frames", "folder in the same layout")
    ytvis.add_argument("--identity", action="store_true", help="also IDF1 and identity switches")
    ytvis.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        metavar="S",
        help="tracks that count for --identity (default %(default)s)",
    )
    davis.add_argument(
        "--protocol",
        required=True,
        choices=PROTOCOLS,
        metavar="2016|2017|semi|unsup|unsup-all",
        help="2016: one object; 2017 or semi: ids of the ground truth; unsup: up to 20 proposals, "
        "matched; unsup-all: so are objects that enter late, which the official tool leaves out",
    )
    davis.add_argument(
        "--sequences",
        nargs="+",
        metavar="NAME",
        help="names or a list file (default: ImageSets/<year>/val.txt below a DAVIS root, or else "
        "the sequences in the results)",
    )
    davis.add_argument(
        "--official-order",
        action="store_true",
        help="unsup: name objects by proposal, as the official tool does",
    )
    ytvos.add_argument("--meta", type=Path, required=True, help="the split's meta.json")
    ytvos.add_argument(
        "--seen", type=Path, metavar="FILE", help="classes seen in training, one a line"
    )
    ytvos.add_argument(
        "--videos",
        nargs="+",
        metavar="NAME",
        help="names or a list file, of a part that was held out (default: all of meta.json)",
    )
    for command in (ytvis, davis):
        command.add_argument(
            "--bootstrap",
            type=int,
            default=0,
            metavar="N",
            help="also a 95%% interval from N draws of videos",
        )
        command.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    for command in (davis, ytvos):
        command.add_argument(
            "--num-workers",
            type=int,
            metavar="N",
            help="processes over videos (default: the cores, as far as there is work)",
        )
    return parser


def _common(command: argparse.ArgumentParser, truth: str, results: str) -> None:
    command.add_argument("--ground-truth", type=Path, required=True, help=truth)
    command.add_argument("--results", type=Path, required=True, help=results)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    command.add_argument(
        "--validate-only", action="store_true", help="check the result files, do not score"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, 2 for bad input."""
    args = build_parser().parse_args(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here multiplies matrices
    progress = not args.no_progress and sys.stderr.isatty()
    try:
        if args.json is not None and args.json.is_dir():
            raise InputError(f"{args.json}: is a folder; --json needs a file name")
        if args.validate_only:
            print(f"{args.results}: {_validate(args)} are as they should be")
            return 0
        report = {"ytvis": _ytvis, "davis": _davis, "ytvos": _ytvos}[args.command](args, progress)
        if args.json is not None:
            from .files.writing import write_json_atomically

            write_json_atomically(args.json, report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(report))
    return 0


def _validate(args: argparse.Namespace) -> str:
    from .validate import validate_davis_results, validate_ytvis_results, validate_ytvos_results

    if args.command == "ytvis":
        return f"{validate_ytvis_results(args.results, args.ground_truth)} tracks"
    if args.command == "davis":
        count = validate_davis_results(
            args.results,
            args.ground_truth,
            protocol=args.protocol,
            sequences=_sequences(args.sequences),
        )
    else:
        count = validate_ytvos_results(args.results, args.meta, chosen=_sequences(args.videos))
    return f"{count} label maps"


def _ytvis(args: argparse.Namespace, progress: bool) -> dict[str, Any]:
    from .ytvis import match_tracks, summarize

    matches = match_tracks(args.ground_truth, args.results, progress=progress)
    report = summarize(matches, matches.curves())
    if args.identity:
        from .identity import evaluate_identity

        report["identity"] = evaluate_identity(
            args.ground_truth, args.results, min_score=args.min_score, progress=progress
        )
    if args.bootstrap > 0:
        from .bootstrap import bootstrap_matches

        interval = bootstrap_matches(
            matches, samples=args.bootstrap, seed=args.seed, progress=progress
        )
        report["bootstrap"] = {"AP": interval._asdict()}
    return report


def _davis(args: argparse.Namespace, progress: bool) -> dict[str, Any]:
    from .davis import evaluate_davis

    report = evaluate_davis(
        args.ground_truth,
        args.results,
        protocol=args.protocol,
        sequences=_sequences(args.sequences),
        num_workers=args.num_workers,
        progress=progress,
        official_order=args.official_order,
    )
    if args.bootstrap > 0:
        from .bootstrap import bootstrap_davis

        interval = bootstrap_davis(
            report, samples=args.bootstrap, seed=args.seed, progress=progress
        )
        report["bootstrap"] = {"J&F-Mean": interval._asdict()}
    return report


def _ytvos(args: argparse.Namespace, progress: bool) -> dict[str, Any]:
    seen = None
    if args.seen is not None:
        if not args.seen.is_file():
            raise InputError(f"{args.seen}: no such file; --seen needs a list of classes")
        seen = {line.strip() for line in args.seen.read_text().splitlines() if line.strip()}
    from .ytvos import evaluate_ytvos

    return evaluate_ytvos(
        args.ground_truth,
        args.results,
        meta=args.meta,
        seen=seen,
        videos=_sequences(args.videos),
        num_workers=args.num_workers,
        progress=progress,
    )


def _sequences(given: list[str] | None) -> list[str] | None:
    """Names as given, or those of a list file."""
    if given is not None and len(given) == 1 and Path(given[0]).is_file():
        from .files.davis_layout import read_sequence_list

        return read_sequence_list(Path(given[0]))
    return given


def _table(report: Mapping[str, Any]) -> str:
    """Return the report as text, in per cent."""
    lines = []
    for key, value in report.items():
        if not isinstance(value, Mapping):
            lines.append(f"{key:<10} {_percent(key, value)}")
    for measure, value in report.get("bootstrap", {}).items():
        low, high = (100 * value[end] for end in ("low", "high"))
        lines.append(f"{measure:<10} {low:.2f} to {high:.2f} in 95 % of the draws")
    for key, value in report.get("identity", {}).items():
        if not isinstance(value, Mapping):
            lines.append(f"{key:<10} {_percent(key, value)}")
    for title in ("per_category", "per_object"):
        rows = report.get(title)
        if not rows:
            continue
        width = max(len(name) for name in rows) + 2
        lines.append("")
        if title == "per_category":
            lines += [f"{name:<{width}}{_percent('AP', ap)}" for name, ap in rows.items()]
        else:
            lines.append(f"{'':<{width}}{'J-Mean':>7}{'F-Mean':>8}")
            lines += [
                f"{name:<{width}}{_percent('', row['J-Mean'])} {_percent('', row['F-Mean'])}"
                for name, row in rows.items()
            ]
    return "\n".join(lines)


def _percent(key: str, value: Any) -> str:
    """Format a fraction as per cent; counts and words stay what they are."""
    if key == "IDSW" or isinstance(value, str):
        return f"{value:>7}"
    return f"{'-':>7}" if value != value else f"{100 * value:7.2f}"
