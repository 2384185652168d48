"""What the operator's scripts share: command line, what is printed where, errors to exit codes.

Results go to stdout, everything else (progress, notes, warnings) to stderr.  Colour and moving
bars only on a terminal; NO_COLOR is respected.  With `--json` stdout carries one JSON document.
Words that cannot be written (the terminal is closed, the disk full) keep nothing from being done.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, cast

import rich.console
import rich.markup
import rich.progress
import rich.table
import rich.text

from panoseti.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_OK, ConfigError, ObsError
from panoseti.word_streams import word_stream, word_streams

# Wide enough that no line of a table is broken where nobody sees it as a table.
PIPE_WIDTH = 2000
# Where there is no bar, a line says now and then how far something long is.
SAY_EVERY_S = 10.0


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP: as Ctrl-C, so that what was begun is undone; `number` is the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def call(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    """Run a script's main and return its exit code.

    An ObsError becomes one line for each of its faults on stderr and its exit code; Ctrl-C,
    SIGTERM and SIGHUP end it with 128 + their number.  Bugs keep their traceback.  When all was
    done, but results could not be written to stdout, it is 1.
    """
    with word_streams() as out:
        code = _ended(main, argv)
    return EXIT_FAILED if out.lost and code == EXIT_OK else code


def _ended(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    name = Path(sys.argv[0]).name
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    try:
        return main(argv) or EXIT_OK
    except ObsError as error:
        _say(name, error)
        return error.exit_code
    except KeyboardInterrupt as error:
        ended_by = signal.Signals(error.number if isinstance(error, Interrupted) else signal.SIGINT)
        print(f"{name}: interrupted ({ended_by.name})", file=sys.stderr)
        return 128 + ended_by


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _say(name: str, error: ObsError) -> None:
    lines = error.faults if isinstance(error, ConfigError) else (error,)
    for line in lines:
        print(f"{name}: {line}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """One line says what is wrong; the usage, a screenful of flags, is what --help is for."""

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = message.split()[-1] if message.startswith("unrecognized arguments") else ""
        near = difflib.get_close_matches(wrong, flags, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        self.exit(EXIT_BAD_CONFIG, f"{self.prog}: {message}{meant}; see {self.prog} --help\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = [self._spelled(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(words, namespace)

    def _spelled(self, word: str) -> str:
        """A long option as it was declared; any other word as it is."""
        name, equals, value = word.partition("=")
        rest = name[2:]
        for spelling in (name, "--" + rest.replace("-", "_"), "--" + rest.replace("_", "-")):
            if name.startswith("--") and spelling in self._option_string_actions:
                return spelling + equals + value
        return word


def parser(doc: str | None, examples: str) -> argparse.ArgumentParser:
    """An argument parser with the module docstring above and worked examples below.

    Long options may be spelled with - or with _.
    """
    return _Parser(
        prog=Path(sys.argv[0]).name,
        description=doc,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class Progress:
    """Counts what is done of a known total."""

    def __init__(self, advance: Callable[[str], None]) -> None:
        self._advance = advance

    def advance(self, text: str = "") -> None:
        """One more is done; `text` says which, and how it went."""
        self._advance(text)


def left_text(task: rich.progress.Task) -> str:
    """How long something will take yet: at most, where there is a limit, else as it went so far."""
    if task.finished:
        return ""
    limit_s = task.fields["limit_s"]
    if limit_s is not None:
        return f"at most {max(0.0, limit_s - (task.elapsed or 0.0)):.0f} s left"
    return "" if task.time_remaining is None else f"about {task.time_remaining:.0f} s left"


class _Left(rich.progress.ProgressColumn):
    """The time left; worked out anew with every refresh."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return rich.text.Text(left_text(task))


class Console:
    """Where a script's words go.

    json_output: stdout is for one JSON document (`result`), words go to stderr; verbose: details
    are shown and the library logs to stderr.
    """

    def __init__(self, json_output: bool = False, verbose: bool = False) -> None:
        self.json_output = json_output
        self.verbose = verbose
        self._out = _rich(sys.stderr if json_output else sys.stdout)
        self._err = _rich(sys.stderr)
        logging.basicConfig(
            level=logging.INFO if verbose else logging.WARNING,
            format="%(levelname)s %(message)s",
            stream=sys.stderr,
        )
        for library in ("paramiko", "tftpy"):  # their words reach the operator as our errors
            logging.getLogger(library).setLevel(logging.CRITICAL)

    def out(self, text: str = "") -> None:
        """A result for the operator."""
        self._out.print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Something by the way."""
        self._err.print(text, markup=False, highlight=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        """Something only --verbose shows."""
        if self.verbose:
            self.note(text)

    def warn(self, text: object) -> None:
        """Something unwise, or wrong but survived."""
        self._err.print(f"warning: {text}", style="yellow", markup=False, highlight=False,
                        soft_wrap=True)  # fmt: skip

    def error(self, text: object) -> None:
        """One of several failures that the exit code will tell."""
        self._err.print(f"error: {text}", style="red", markup=False, highlight=False,
                        soft_wrap=True)  # fmt: skip

    def ask(self, question: str) -> bool:
        """Whether the operator says yes; where nobody can be asked the command line has said it."""
        if sys.stdin is None or not sys.stdin.isatty():
            return True
        self._err.print(f"{question} [yes/no] ", end="", markup=False, highlight=False,
                        soft_wrap=True)  # fmt: skip
        try:
            answer = sys.stdin.readline()
        except OSError:  # the terminal is closed
            answer = ""
        return answer.strip().lower() in ("y", "yes")

    def result(self, document: Any) -> None:
        """The JSON document of --json."""
        print(json.dumps(document, indent=2, default=str))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Rows under headings; numbers stand to the right.

        A table that is wider than the terminal is folded.
        """
        lines = _table_lines(columns, rows)
        if not self._out.is_terminal or max(map(len, lines)) <= self._out.width:
            # Not drawn by the library, which takes seconds for a thousand boards.
            bold = self._out.is_terminal and not self._out.no_color
            head = f"\x1b[1m{lines[0]}\x1b[0m" if bold else lines[0]
            self._out.file.write("\n".join([head, *lines[1:], ""]))
            return
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            right = _are_numbers(index, rows)
            table.add_column(column, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(rich.markup.escape(_cell(value)) for value in row))
        with self._out.capture() as drawn:
            self._out.print(table, highlight=False)
        for line in drawn.get().splitlines():
            self._out.file.write(line.rstrip() + "\n")

    @contextmanager
    def progress(self, label: str, total: int, limit_s: float | None = None) -> Iterator[Progress]:
        """Show how far something of `total` parts is, and the time left: a bar on a terminal.

        Elsewhere a line for each part that had something to say, and one now and then.  limit_s:
        when it is given up, where that is known.
        """
        with (
            rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                _Left(),
                rich.progress.TextColumn("{task.fields[text]}", markup=False),
                console=self._err,
                disable=not self._err.is_terminal,
            ) as bar,
            ExitStack() as stack,
        ):
            task = bar.add_task(label, total=total, text="", limit_s=limit_s)
            if bar.disable and not self.json_output:
                stack.enter_context(_now_and_then(lambda: self.note(_line(bar.tasks[0]))))
            # What was said last stays until something else is said.
            said: dict[str, Any] = {}

            def advance(text: str) -> None:
                if bar.disable and text:
                    self.note(f"{label}: {text}")
                said.update({"text": text} if text else {})
                bar.update(task, advance=1, **said)

            yield Progress(advance)


@contextmanager
def _now_and_then(say: Callable[[], None]) -> Iterator[None]:
    """Say something every SAY_EVERY_S, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(SAY_EVERY_S):
            say()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _line(task: rich.progress.Task) -> str:
    """How far something is, where there is no bar."""
    left = left_text(task)
    done = f"{task.description}: {task.completed:.0f} of {task.total:.0f}"
    return f"{done}, {left}" if left else done


def _table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table as plain text: headings, then the rows."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    numbers = [_are_numbers(index, rows) for index in range(len(columns))]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in cells
    ]


def _are_numbers(index: int, rows: Sequence[Sequence[object]]) -> bool:
    return bool(rows) and all(isinstance(row[index], int | float) for row in rows)


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _rich(stream: Any) -> rich.console.Console:
    words = word_stream(stream)
    return rich.console.Console(
        file=cast(IO[str], words),
        width=None if words.isatty() else PIPE_WIDTH,
        emoji=False,
        highlight=False,
    )
