"""The command ``vis``: one file per subcommand, imported only when it is called.

A subcommand ``vis x`` is a module ``cli/x.py`` with ``add_arguments(parser)`` and
``run(args) -> int``, and a line in ``SUBCOMMANDS``. What it does lies in the rooms below; this is
the only place that parses arguments and prints. At the top a module imports the standard library
only: ``vis x --help`` answers without torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

# Subcommand -> what it is for; its module has the same name.
SUBCOMMANDS = {
    "train": "train a system, score it, leave weights, curves and an overlay video",
    "eval": "score weights on data sets",
    "run": "segment your own videos: one, or thousands",
    "data": "check, split and convert data sets",
    "weights": "known weights by name; convert official checkpoints",
    "compare": "variants of one config on the same videos, with intervals of the differences",
    "annotate": "a local page to point at objects, follow them, correct, export",
    "report": "a page about a run, or several compared",
    "export": "networks as ONNX or torch.export programs; results in other formats",
    "bench": "speed and memory of one config, honestly timed",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vis`` with a command line and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        with suppress(BrokenPipeError):  # `vis --help | head`
            print(_overview(), flush=True)
        return 0
    if name == "--version":
        return run_script(_print_version, [], prog="vis")
    if name not in SUBCOMMANDS:
        close = get_close_matches(name, SUBCOMMANDS, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "see vis --help"
        print(f"vis: no subcommand {name!r}; {hint}", file=sys.stderr)
        return 2
    return run_script(name, argv[1:], prog=f"vis {name}")


def run_script(
    command: str | Callable[[Sequence[str]], int],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
) -> int:
    """Run a subcommand, or a function of the command line, and return the exit code.

    Bad input is told in one line that begins with ``prog``; see ``structures.errors``.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if isinstance(command, str):
            args = parse(command, argv, prog=prog)
        _load_package()
        from ..structures.errors import one_line_errors

        with one_line_errors(prog):
            if isinstance(command, str):
                return _run(args)
            return command(argv) or 0
    except SystemExit as end:  # argparse, and one_line_errors
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:  # while the package was imported, which takes seconds
        print(f"{prog}: stopped", file=sys.stderr)
        return 130


def call(command: str, argv: Sequence[str] | None = None, *, prog: str) -> int:
    """Parse and run a subcommand in this process; errors are raised, not printed."""
    args = parse(command, sys.argv[1:] if argv is None else list(argv), prog=prog)
    _load_package()
    return _run(args)


def parse(command: str, argv: Sequence[str], *, prog: str) -> argparse.Namespace:
    """Parse the command line of a subcommand; without arguments its help is shown."""
    module = import_module(f"{__name__}.{command}")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(module.__doc__ or "").replace(f"vis {command}", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    _add_imports(parser)
    if not argv and not getattr(module, "RUNS_WITHOUT_ARGUMENTS", False):
        parser.print_help()
        raise SystemExit(0)
    mixed = getattr(module, "INTERMIXED", False)
    args = parser.parse_intermixed_args(argv) if mixed else parser.parse_args(argv)
    args.module = module
    return args


def _run(args: argparse.Namespace) -> int:
    from ..plug_ins import import_packages

    module: ModuleType = args.module
    del args.module
    import_packages(args.imports)
    return module.run(args) or 0


def _add_imports(parser: argparse.ArgumentParser) -> None:
    """Give a parser, or all of its subparsers, the option that every command has."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in nested:
        for child in action.choices.values():
            _add_imports(child)
    if not nested:
        parser.add_argument(
            "--import",
            dest="imports",
            metavar="PACKAGE",
            action="append",
            default=[],
            help="import your own package first: its systems, data sets and options join",
        )


def _load_package() -> None:
    """Run the package's ``__init__`` where ``vis_command`` put it off."""
    package = sys.modules["vis_projects"]
    if not hasattr(package, "__version__"):
        package.__spec__.loader.exec_module(package)


def _print_version(argv: Sequence[str]) -> int:
    from .. import __version__

    print(f"vis_projects {__version__}")
    return 0


def _overview() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: vis SUBCOMMAND ...",
            "",
            "Video instance segmentation and video object segmentation on Detectron2.",
            "",
            *lines,
            "",
            "vis SUBCOMMAND --help explains one. The first thing to try:",
            "  vis train --config-file configs/quickstart.yaml",
            "",
            "Exit codes: 0 done, 2 bad input (one line), 3 partly done, 130 interrupted.",
        ]
    )
