"""Point at objects in a video on a local page, follow them, correct, and take the masks away.

vis annotate clip.mp4
vis annotate clip.mp4 --config-file configs/frtm/lite0_davis2016.yaml --weights W.pth
vis annotate frames/ --project labels/

The page opens in the browser, or under the address that is printed. Everything lies in the project
folder (CLIP.annotations beside the clip by default): the same command opens it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, help="a video file or a folder of frames")
    parser.add_argument("--project", type=Path, help="folder of the annotations")
    parser.add_argument("--config-file", help="the system that follows or proposes objects")
    parser.add_argument("--weights", help="its weights: a file, zoo://NAME")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others may come")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def run(args: argparse.Namespace) -> int:
    from ..annotate.serving import serve

    serve(
        args.input,
        project=args.project,
        config=args.config_file,
        weights=args.weights,
        device=args.device,
        host=args.host,
        port=args.port,
        browser=not args.no_browser,
    )
    return 0
