"""Weights by name, what a file holds, and conversion of the authors' files.

vis weights list
vis weights show NAME                     also a file: whose it is and what it says of itself
vis weights get NAME output/              a copy; MODEL.WEIGHTS zoo://NAME needs none
vis weights convert crossvis official.pth ours.pth

MODEL.WEIGHTS and --weights take the authors' files as they are. Nothing in a file is executed.
"""

from __future__ import annotations

import argparse

SYSTEMS = ("cfbi", "crossvis", "frtm", "seq_mask_rcnn", "srnet", "swin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="all known names")
    listing.add_argument("system", nargs="?", default="", help="of this system only")
    show = commands.add_parser("show", help="all that is known of a name or a file")
    show.add_argument("name", help="a name, zoo://NAME, or a weights file")
    get = commands.add_parser("get", help="copy the file of a name")
    get.add_argument("name")
    get.add_argument("target", help="file or folder")
    convert = commands.add_parser("convert", help="the authors' file to ours")
    convert.add_argument("system", choices=SYSTEMS)
    convert.add_argument("official", help="the authors' checkpoint")
    convert.add_argument("out", help="file to write, .pth")


def run(args: argparse.Namespace) -> int:
    lines = {"list": _list, "show": _show, "get": _get, "convert": _convert}[args.command](args)
    for line in lines:
        print(line)
    return 0


def _list(args: argparse.Namespace) -> list[str]:
    from ..weights import zoo_entries

    entries = [e for e in zoo_entries().values() if args.system in ("", e.system)]
    how = {e.name: "ships" if e.file else "download" if e.url else "by hand" for e in entries}
    width = max((len(e.name) for e in entries), default=0)
    return [f"{e.name:{width}}  {e.system:13}  {how[e.name]:8}  {e.about}" for e in entries]


def _show(args: argparse.Namespace) -> list[str]:
    from ..weights import describe_file, zoo_entries, zoo_entry

    name = args.name.removeprefix("zoo://")
    if args.name.startswith("zoo://") or name in zoo_entries():
        entry = zoo_entry(name)
        fields = {k: v for k, v in vars(entry).items() if v}
        return [f"{k}: {v}" for k, v in fields.items()]
    return describe_file(args.name)


def _get(args: argparse.Namespace) -> list[str]:
    from ..weights import get_weights

    return [str(get_weights(args.name, args.target))]


def _convert(args: argparse.Namespace) -> list[str]:
    from ..weights import convert_file

    return [convert_file(args.system, args.official, args.out)]
