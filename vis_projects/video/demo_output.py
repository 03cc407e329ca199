"""Everything that ``vis run`` writes for one video: overlay, indexed PNGs, tracks.

What is done is never thrown away: an interrupt or a damaged frame ends the video there, the frames
before it are written, and the outcome says what is missing.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..modeling.progress import OnProgress, reporting
from ..structures import Frame, FrameResult, FrameSource, InputError
from ..structures.errors import one_line
from ..structures.exports import write_pair
from .drawing import OverlayPainter
from .given_masks import read_first_mask
from .output_folder import OutputFolder
from .predictor import VideoPredictor
from .writing import VideoWriter, add_audio

__all__ = ["Outcome", "check_output", "read_first_mask", "run_demo", "source_files"]

OUTPUTS = ("overlay.mp4", "masks", "results.json", "video.json")


@dataclass
class Outcome:
    """What a run left.

    Attributes:
        lines: one per output, for the user.
        frames: frames that were segmented and written.
        missing: what is missing and why, in one line; empty if nothing is.
        interrupted: the user or the system stopped it.
    """

    lines: list[str] = field(default_factory=list)
    frames: int = 0
    missing: str = ""
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 3 partly done, 130 interrupted."""
        return 130 if self.interrupted else 3 if self.missing else 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)


def run_demo(
    predictor: VideoPredictor,
    source: FrameSource,
    output: str | Path,
    *,
    masks: Any = None,
    fps: float | None = None,
    max_frames: int | None = None,
    score_threshold: float | None = None,
    overwrite: bool = False,
    inputs: Sequence[str | Path] = (),
    style: Mapping[str, Any] | None = None,
    audio: bool = False,
) -> Outcome:
    """Segment ``source``; write ``overlay.mp4``, ``masks/<frame>.png``, ``results.json`` (the plain
    YouTube-VIS list) and ``video.json`` (names, frames, ids).

    Args:
        predictor: the system.
        source: the video.
        output: folder; it must be new or empty unless ``overwrite``, which replaces the files of an
            earlier run and nothing else.
        masks: first-frame masks for VOS.
        fps: of the overlay; by default the source's, or 24.
        max_frames: stop after this many frames.
        score_threshold: tracks below it are not drawn; the system's ``drawn_above`` by default. The
            files keep all.
        overwrite: see ``output``.
        inputs: further files that are read, such as the mask's.
        style: what else the overlay shows: ``boxes``, ``trails``, ``ids_only``, ``alpha`` of
            ``OverlayPainter``.
        audio: the overlay has the sound of the input, where it has one.

    Raises:
        InputError: bad input before the first frame was done, or an output folder in the way.
        KeyboardInterrupt: stopped before the first frame was done.
    """
    if max_frames is not None:
        source = FirstFrames(source, max_frames)
    if score_threshold is None:
        model = predictor.model
        score_threshold = 0.0 if model.takes_masks else model.drawn_above
    folder = check_output(output, source, overwrite=overwrite, inputs=inputs)
    with folder, _Stops() as stops:
        run = _Run(predictor, source, folder.partial, stops)
        painter = OverlayPainter(
            source.image_format,
            None if predictor.model.takes_masks else predictor.class_names,
            **(style or {}),
        )
        outcome = run.segment(masks, painter, fps, score_threshold)
        if audio:
            run.add_sound(outcome)
        with suppress(KeyboardInterrupt), stops.held():  # all is done when it would be raised
            run.write(outcome)
            folder.commit()
        outcome.lines = [line.format(folder=folder.folder) for line in outcome.lines]
        if run.fault is not None:
            raise run.fault
        return outcome


def check_output(
    output: str | Path,
    source: FrameSource,
    *,
    overwrite: bool = False,
    inputs: Sequence[str | Path] = (),
) -> OutputFolder:
    """Return the output folder of a run; what is in the way is said before a network is built.

    Raises:
        InputError: see ``OutputFolder``.
    """
    read = [*source_files(source), *inputs]
    return OutputFolder(output, overwrite=overwrite, inputs=read, names=OUTPUTS)


def source_files(source: FrameSource) -> list[str]:
    """Return the files that a source reads, and the folders of its frames."""
    while isinstance(source, _Wrapper):
        source = source.source
    if getattr(source, "file", None):
        return [source.file]
    files = [str(f) for f in getattr(source, "files", ())]
    return [*files, *sorted({str(Path(f).parent) for f in files})] if len(files) > 1 else files


class _Run:
    """One video on its way into a folder."""

    def __init__(
        self, predictor: VideoPredictor, source: FrameSource, folder: Path, stops: _Stops
    ) -> None:
        self.predictor = predictor
        self.source = source
        self.folder = folder
        self.stops = stops
        self.fault: Exception | None = None  # ours: raised when what is done is written

    def segment(
        self, masks: Any, painter: OverlayPainter, fps: float | None, threshold: float
    ) -> Outcome:
        """Segment and draw up to the end, an interrupt or an error.

        Without ``fps`` frames are shown at the times of the source, where it knows them.
        """
        outcome = Outcome()
        rate = fps or self.source.fps or 24.0
        aspect = self.source.pixel_aspect
        file = self.folder / "overlay.mp4"
        try:
            with VideoWriter(file, fps=rate, pixel_aspect=aspect) as video:
                self._follow(outcome, masks, painter, video.add, fps, threshold)
            line = f"{{folder}}/overlay.mp4: {outcome.frames} frames at {rate:g} fps"
            outcome.lines.append(line)
        except OSError as error:  # a full disk: masks and tracks need less of it
            if outcome.frames == 0:
                raise
            why = f"overlay.mp4 cannot be written ({error.strerror})"
            outcome.missing = self._rest(outcome.frames, why)
        if outcome.frames == 0:
            raise InputError("the input has no frame")
        length = self.source.length
        if not outcome.missing and length is not None and outcome.frames < length:
            outcome.missing = self._rest(outcome.frames, "the input ended early")
        outcome.missing = outcome.missing or self.source.shortfall
        return outcome

    def _follow(
        self,
        outcome: Outcome,
        masks: Any,
        painter: OverlayPainter,
        add: Callable[[np.ndarray, float | None], None],
        fps: float | None,
        threshold: float,
    ) -> None:
        """Segment and draw; what ends it is noted in the outcome once a frame is done."""
        pairs = self._pairs(masks)
        try:
            for frame, result in tqdm(
                pairs, total=self.source.length, unit="frame", desc="segmenting"
            ):
                drawn = result.instances[result.instances.scores >= threshold]
                image = painter.draw(frame, FrameResult(drawn, result.index))
                with self.stops.held():
                    add(image, None if fps else frame.time)
                outcome.frames += 1
        except KeyboardInterrupt:
            if outcome.frames == 0:
                raise KeyboardInterrupt("before the first frame was done") from None
            outcome.interrupted = True
            outcome.missing = self._rest(outcome.frames, "stopped")
        except Exception as error:
            if outcome.frames == 0:
                raise
            line = one_line(error)
            outcome.missing = self._rest(outcome.frames, line or " ".join(str(error).split()))
            self.fault = None if line is not None else error
        finally:
            pairs.close()

    def add_sound(self, outcome: Outcome) -> None:
        """Give the overlay the sound of the input."""
        file = next((f for f in source_files(self.source) if Path(f).is_file()), None)
        if file is None or not add_audio(self.folder / "overlay.mp4", file):
            outcome.lines.append("the input has no sound")

    def _rest(self, done: int, why: str) -> str:
        length = self.source.length
        whole = "" if length is None else f" of {length}"
        return f"{why}; {done}{whole} frames are done and written"

    def _pairs(self, masks: Any) -> Iterator[tuple[Frame, FrameResult]]:
        """Every frame with its result; online systems see the frame as it passes."""
        if self.predictor.sees_whole_video(self.source, masks):
            results = self.predictor(self.source, masks=masks)
            with _whole_video_bar() as tell, reporting(tell):
                first = next(results, None)  # the work is done here
            if first is not None:
                yield from zip(iter(self.source), chain([first], results))
            return
        passing = _Tee(self.source)
        results = self.predictor(passing, masks=masks)
        try:
            for result in results:
                yield passing.last, result
        finally:
            results.close()

    def write(self, outcome: Outcome) -> None:
        """Write the tracks and the masks of the frames that are done.

        Raises:
            InputError: there is no room for the tracks.
        """
        source = self.source
        result = self.predictor.video_result.first(outcome.frames)
        result.frame_names = [source.name(i) for i in range(result.length)]
        more = {"system": type(self.predictor.model).__name__, "fps": source.fps}
        try:
            write_pair(result, self.folder, more=more)
        except OSError as error:
            raise InputError(
                f"{self.folder.parent}: the results cannot be written ({error.strerror})"
            ) from None
        count = len(result.tracks)
        wide = max((t.id for t in result.tracks), default=0) > 255
        try:
            files = result.to_davis(self.folder / "masks")
            kind = "16-bit" if wide else "indexed"
            outcome.lines.append(f"{{folder}}/masks/: {len(files)} {kind} PNGs")
        except OSError as error:  # results.json holds them all
            shutil.rmtree(self.folder / "masks", ignore_errors=True)
            why = f"masks/ cannot be written ({error.strerror}), results.json holds the masks"
            outcome.missing = f"{outcome.missing}; {why}" if outcome.missing else why
        outcome.lines.append(
            f"{{folder}}/results.json, video.json: {count} track{'s' if count != 1 else ''}"
        )


@contextmanager
def _whole_video_bar() -> Iterator[OnProgress]:
    """A bar for systems that look at the whole video before the first result."""
    with tqdm(unit="step", desc="looking at the video", leave=False) as bar:

        def tell(done: int, total: int | None, what: str) -> None:
            if bar.desc != f"{what}: ":
                bar.reset(total)
                bar.set_description(what)
            bar.update(done - bar.n)

        yield tell


class _Stops:
    """Ctrl-C and SIGTERM as KeyboardInterrupt, put off while a file is being written.

    A second signal while one is put off is raised at once.
    """

    def __init__(self) -> None:
        self._holding = False
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stops:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: object) -> None:
        if self._holding and not self._waiting:
            self._waiting = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put signals off until the block ends."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt


class _Wrapper(FrameSource):
    """A source that is read through another."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__(image_format=source.image_format)
        self.source = source
        self.seekable = source.seekable

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    @property
    def length(self) -> int | None:
        return self.source.length

    @property
    def shortfall(self) -> str:
        return self.source.shortfall

    @property
    def fps(self) -> float | None:
        return self.source.fps

    @property
    def pixel_aspect(self) -> Fraction:
        return self.source.pixel_aspect

    def name(self, index: int) -> str:
        return self.source.name(index)

    def read(self, index: int) -> np.ndarray:
        return self.source.read(index)

    def settle(self) -> None:
        self.source.settle()

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.source)


class _Tee(_Wrapper):
    """Remembers the frame that was read last."""

    last: Frame

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.source:
            self.last = frame
            yield frame


class FirstFrames(_Wrapper):
    """The first ``count`` frames of a source."""

    def __init__(self, source: FrameSource, count: int) -> None:
        super().__init__(source)
        if count < 1:
            raise InputError(f"--max-frames {count}: at least one frame is needed")
        self.count = count

    @property
    def length(self) -> int | None:
        return self.count if self.source.length is None else min(self.count, self.source.length)

    def __iter__(self) -> Iterator[Frame]:
        return islice(iter(self.source), self.count)
