"""Steps: commands that are run, one after the other or at once, with what is under way in sight, and a summary."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from environments import ROOT, SetUpError

__all__ = ["Command", "Run"]

Command = Sequence[str]

# More than there are cores: some wait for servers and browsers.
AT_ONCE: Final = (os.cpu_count() or 1) + 2
TELL_SECONDS: Final = 5.0
# As pytest tells of what it has done, with `console_output_style=count`: `....F... [ 72/650]`.
COUNTED: Final = re.compile(r"\[ *(\d+)/(\d+)\]")
OUTCOMES: Final = re.compile(r"^[.FEsxX]+", re.MULTILINE)


class Result(NamedTuple):
    """How a step ended."""

    title: str
    passed: bool
    seconds: float
    processor: float
    """Seconds of a processor that its processes took: unlike the clock's they hardly depend on what else runs."""


class Child:
    """A command under way, whose output is kept until it has ended."""

    def __init__(self, title: str, command: Command, environment: dict[str, str]) -> None:
        self.title = title
        self.processor = 0.0
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._start = time.monotonic()
        self._process = start(command, environment, self._printed.fileno())

    @property
    def seconds(self) -> float:
        """Return for how long it has run."""
        return time.monotonic() - self._start

    @property
    def result(self) -> bool | None:
        """Return whether it passed, or `None` while it runs."""
        code = self._poll()
        return None if code is None else code == 0

    @property
    def has_crashed(self) -> bool:
        """Return whether its interpreter died of a fault of its own or of a library's C code."""
        return self._poll() == -signal.SIGSEGV

    @property
    def text(self) -> str:
        """Return what it has printed so far."""
        size = os.fstat(self._printed.fileno()).st_size
        return os.pread(self._printed.fileno(), size, 0).decode(errors="replace")

    def progress(self) -> str:
        """Return in a few words how far it is."""
        text = self.text
        *_, counted = [None, *COUNTED.finditer(text)]
        if counted is None:
            return f"{self.title} {self.seconds:.0f} s"
        since = sum(map(len, OUTCOMES.findall(text, counted.end() + 1)))
        failed = sum(len(re.findall("[FE]", outcomes)) for outcomes in OUTCOMES.findall(text))
        return f"{self.title} {int(counted[1]) + since}/{counted[2]}" + f", {failed} FAILED" * bool(failed)

    def end(self) -> None:
        """End it, if it runs."""
        end(self._process)
        self._printed.close()

    def _poll(self) -> int | None:
        before = processor()
        code = self._process.poll()
        self.processor += processor() - before
        return code


class Run:
    """The steps taken so far, and how each ended."""

    def __init__(self, minutes: float) -> None:
        # A step that hangs must end before the CI's own limit ends everything without a word.
        self.seconds = minutes * 60
        self.results: list[Result] = []
        self.notes: list[str] = []
        self._begun = time.monotonic()

    def step(self, title: str, take: Callable[[], bool]) -> bool:
        """Take a step under a heading of its own, and go on whatever comes of it."""
        print(f"\n━━━ {title}", flush=True)
        start, before = time.monotonic(), processor()
        try:
            passed = take()
        except SetUpError as error:
            print(error)
            passed = False
        self._close(Result(title, passed, time.monotonic() - start, processor() - before))
        return passed

    def commands(self, title: str, *commands: Command, **environment: str) -> bool:
        """Run commands as one step, which passes if each of them does; each is run, and seen while it runs."""
        return self.step(title, lambda: min([self._passes(command, environment) for command in commands]))

    def together(self, commands: dict[str, Command], **environment: str) -> set[str]:
        """Run commands at once, a step each: a line tells of those under way, and a failed one is shown whole.

        Return the titles of those that passed.
        """
        before = len(self.results)
        waiting = list(commands.items())
        running: list[Child] = []
        crashed: set[str] = set()
        line = Line()
        print(f"\n━━━ at once: {', '.join(commands)}", flush=True)
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    running.append(Child(*waiting.pop(0), environment))
                for child in running[:]:
                    if child.has_crashed and child.title not in crashed:
                        # A crash of the interpreter says nothing of what was tested. A second one fails.
                        running.remove(child)
                        crashed.add(child.title)
                        waiting.insert(0, (child.title, commands[child.title]))
                        line.clear()
                        self.note(f"{child.title}: the interpreter crashed (SIGSEGV) and the step was run again")
                        child.end()
                    elif child.result is not None or child.seconds > self.seconds:
                        running.remove(child)
                        line.clear()
                        self._show(child)
                if running:
                    line.tell([child.progress() for child in running], len(waiting))
                    time.sleep(0.2)
        finally:
            for child in running:
                child.end()
        return {result.title for result in self.results[before:] if result.passed}

    def note(self, text: str) -> None:
        """Say something now, and again in the summary."""
        print(text, flush=True)
        self.notes.append(text)

    def close(self) -> bool:
        """Print the summary; return whether all went well."""
        print("\n━━━ summary")
        for result in self.results:
            outcome = "passed" if result.passed else "FAILED"
            print(f"  {outcome}  {result.seconds:6.1f} s  {result.processor:6.1f} s of a processor  {result.title}")
        for text in self.notes:
            print(f"  note    {text}")
        spent = sum(result.processor for result in self.results)
        print(f"  {time.monotonic() - self._begun:.0f} s in all, {spent:.0f} s of a processor", flush=True)
        return all(result.passed for result in self.results)

    def _show(self, child: Child) -> None:
        seconds, passed = child.seconds, child.result
        text = child.text.strip()
        child.end()
        if passed:
            print(text.rpartition("\n")[2])
        else:
            print(f"\n━━━ {child.title}\n{text}")
        if passed is None:
            print(f"not done after {self.seconds / 60:g} minutes")
        self._close(Result(child.title, passed is True, seconds, child.processor))

    def _close(self, result: Result) -> None:
        print(f"━━━ {result.title}: {'passed' if result.passed else 'FAILED'}, {result.seconds:.1f} s", flush=True)
        self.results.append(result)

    def _passes(self, command: Command, environment: dict[str, str]) -> bool:
        child = start(command, environment)
        try:
            return child.wait(self.seconds) == 0
        except subprocess.TimeoutExpired:
            print(f"not done after {self.seconds / 60:g} minutes: {' '.join(command)}", flush=True)
            return False
        finally:
            end(child)


class Line:
    """What is under way, in one line: kept in its place on a terminal, printed now and then elsewhere."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._start = self._told = time.monotonic()

    def tell(self, parts: Sequence[str], waiting: int) -> None:
        """Show how far each is."""
        now = time.monotonic()
        text = f"  {now - self._start:4.0f} s  {' · '.join(parts)}" + f" · {waiting} to come" * bool(waiting)
        if self._in_place:
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif now - self._told >= TELL_SECONDS:
            print(text, flush=True)
            self._told = now

    def clear(self) -> None:
        """Make place for other lines."""
        if self._in_place:
            print("\r\033[K", end="")


def processor() -> float:
    """Return the seconds of a processor that all processes took that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(command: Command, environment: dict[str, str], output: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a command in the project's folder, with nothing to read; what it prints goes to a file, if there is one."""
    errors = None if output is None else subprocess.STDOUT
    env = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=env)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process that may still run, so that it can end its own first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
