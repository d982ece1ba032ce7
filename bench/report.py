"""The page that tells the figures: docs/performance.md, and its picture."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from bench.asking import TITLES, Kind
from bench.field import CSRF_KINDS, FRAMEWORKS, GROUPS, SESSION_KINDS, Group, Subject
from bench.over_http import GROUPS as HTTP_GROUPS
from bench.over_http import KINDS as HTTP_KINDS
from bench.over_http import THREADS
from bench.plot import Row, draw

Figures = dict[str, Any]

BUSY = 0.2
ON_A_BUSY_MACHINE = "Microseconds are too high, and shares less sure than on a quiet one; calls are exact all the same."
LEAST_NET = 3.0
"""Microseconds: what a peer takes less than that, net of the application, no share is made of."""
SLOWER = 1.05
UNSURE = 0.3
"""How far the quartiles of a figure may lie apart, as a part of it, before a share of it is called unsure."""
PLOTTED = (Kind.READ, Kind.WRITE, Kind.FIRST)
SHARED = (Kind.NO_COOKIE, Kind.UNTOUCHED, Kind.UNLOADED, *PLOTTED, Kind.TOKEN, Kind.CHECK)
PICTURE = "performance.svg"
WHERE = {"memory": "memory", "file": "files", "redis": "Redis", "sqlite": "SQLite"}

TEXT = Path(__file__).with_name("page.md")
NOTHING = "\N{EN DASH}"
"""What stands where there is no figure."""


class Report:
    """The page over a set of figures."""

    def __init__(self, figures: Figures) -> None:
        self._groups: Figures = figures.get("groups", {})
        self._http: Figures = figures.get("http", {})
        self._memory: Figures = figures.get("memory", {})

    def page(self) -> str:
        """Return the page, in Markdown: `page.md` with what was measured put in."""
        heads, longest = self._longest()
        found = {
            "made": self._made(),
            "versions": self._versions(),
            "shares": self._shares(),
            "slower": self._slower(),
            "calls": self._calls(),
            "frameworks": self._frameworks(),
            "times": self._times(),
            "http": self._over_http(),
            "memory": self._memory_store(),
            "longest": table(heads, longest),
            "left_out": self._left_out(),
            "unmeasured": self._unmeasured(),
        }
        texts = {name: "\n".join(lines) for name, lines in found.items()}
        words = {
            "picture": PICTURE,
            "least": f"{LEAST_NET:g}",
            "unsure": f"{UNSURE * 100:g}",
            "threads": str(THREADS),
            "nothing": NOTHING,
        }
        return re.sub(r"\n{3,}", "\n\n", Template(TEXT.read_text()).substitute(texts, **words))

    def picture(self) -> str:
        """Return the picture, as SVG."""
        rows = []
        for group, at_once, subject in self._peers():
            shares = {kind: share for kind in PLOTTED if (share := self._share(group, subject, kind, at_once))}
            if shares:
                rows.append(Row(_label(subject, at_once), {str(kind): share for kind, share in shares.items()}))
        return draw("Time of a request with server-session, as a share of each peer's", rows)

    def _made(self) -> list[str]:
        runs: dict[tuple[str, ...], list[float]] = {}
        for made in self._mades():
            run = tuple(made[word] for word in ("when", "commit", "scale", "machine", "python"))
            runs.setdefault(run, []).append(float(made["others"]))
        lines = []
        for (when, commit, scale, machine, python), others in sorted(runs.items()):
            lines += [f"{when}, at commit {commit} (size: {scale}), on {machine}, Python {python}.", ""]
            if any(map(math.isnan, others)):
                lines += ["What else ran on the machine was not measured.", ""]
            elif max(others) > BUSY:
                much = f"it kept up to {max(others):.1f} processors busy"
                lines += [f"**Other work ran on the machine** ({much}). {ON_A_BUSY_MACHINE}", ""]
        return lines

    def _versions(self) -> list[str]:
        return [f"- Versions: {versions}." for versions in sorted({made["versions"] for made in self._mades()})]

    def _mades(self) -> Iterable[Figures]:
        for part in (self._groups, self._http, self._memory):
            for entry in part.values():
                if "made" in entry:
                    yield entry["made"]

    def _shares(self) -> list[str]:
        rows = []
        for group, at_once, subject in self._peers():
            if any(self._share(group, subject, kind, at_once) for kind in SHARED):
                cells = [self._spelled(group, subject, kind, at_once) for kind in SHARED]
                rows.append([_label(subject, at_once), *cells])
        return table(["beside", *(TITLES[kind] for kind in SHARED)], rows)

    def _slower(self) -> list[str]:
        lines = []
        for kind in SHARED:
            found = [
                (share, f"{_label(subject, at_once)} {self._spelled(group, subject, kind, at_once)}")
                for group, at_once, subject in self._peers()
                if (share := self._share(group, subject, kind, at_once)) and share > SLOWER
            ]
            if found:
                told = "; ".join(label.replace("**", "") for _, label in sorted(found, reverse=True))
                lines.append(f"- **{TITLES[kind]}**: {told}")
        return lines or ["Nowhere, in this run."]

    def _calls(self) -> list[str]:
        kinds = [*Kind]
        rows = []
        for group in GROUPS:
            for subject in self._present(group):
                calls = self._groups[group.key]["subjects"][subject.name]["calls"]
                if calls and not subject.is_bare:
                    alone = self._groups[group.key]["subjects"].get(subject.bare, {}).get("calls", {})
                    rows.append(
                        [
                            _named(subject),
                            *(str(calls.get(kind, NOTHING)) for kind in kinds),
                            str(alone.get(Kind.READ, NOTHING)),
                        ]
                    )
        return table(["", *(TITLES[kind] for kind in kinds), "the application"], rows)

    def _frameworks(self) -> list[str]:
        """Return the calls of ours and of the peer, net of the application."""
        kinds = (*SESSION_KINDS, *CSRF_KINDS)
        rows = []
        for group in GROUPS:
            for alone in FRAMEWORKS.values():
                of_it = [subject for subject in self._present(group) if subject.bare == alone.name]
                for mine in (subject for subject in of_it if not subject.against):
                    peers = [subject for subject in of_it if subject.against == mine.name]
                    cells = [self._beside(group, mine, peers, kind) for kind in kinds]
                    told = ", ".join(_named(peer) for peer in peers) or NOTHING
                    rows.append([f"{alone.name.removesuffix(' alone')}, {WHERE[mine.place]}", told, *cells])
        return table(["", "beside", *(TITLES[kind] for kind in kinds)], rows)

    def _beside(self, group: Group, mine: Subject, peers: Sequence[Subject], kind: Kind) -> str:
        net, *theirs = (self._net_calls(group, subject, kind) for subject in (mine, *peers))
        shares = [f" / {calls} = {net / calls:.2f}" for calls in theirs if net is not None and calls]
        return NOTHING if net is None else "".join((str(net), *shares))

    def _net_calls(self, group: Group, subject: Subject, kind: Kind) -> int | None:
        subjects = self._groups[group.key]["subjects"]
        whole, alone = (subjects.get(name, {}).get("calls", {}).get(kind) for name in (subject.name, subject.bare))
        return None if whole is None or alone is None else whole - alone

    def _times(self) -> list[str]:
        lines: list[str] = []
        for group in GROUPS:
            present = self._present(group)
            if not present:
                continue
            for at_once in group.at_once:
                lines += [f"### {group.title}" + (f", {at_once} at once" if at_once > 1 else ""), ""]
                kinds = [
                    kind for kind in Kind if any(kind in subject.kinds for subject in present if not subject.is_bare)
                ]
                rows = []
                for subject in present:
                    if subject.is_bare:
                        cells = [_bracketed(None, self._gross(group, subject.name, kind, at_once)) for kind in kinds]
                    else:
                        cells = [
                            _bracketed(
                                self._net(group, subject, kind, at_once),
                                self._gross(group, subject.name, kind, at_once),
                            )
                            for kind in kinds
                        ]
                    rows.append([subject.name, *cells])
                lines += [*table(["", *(TITLES[kind] for kind in kinds)], rows), ""]
            failures = self._groups[group.key]["failures"]
            lines += [f"- not answered as it should be: {name}: {_short(reason)}" for name, reason in failures.items()]
            lines += [""] * bool(failures)
        return lines

    def _over_http(self) -> list[str]:
        lines: list[str] = []
        columns = [f"{TITLES[kind]}, {figure}" for kind in HTTP_KINDS for figure in ("p50", "p99", "a second")]
        for group in HTTP_GROUPS:
            entry = self._http.get(group.key)
            if entry is None:
                continue
            rows = []
            for name, kinds in entry["subjects"].items():
                cells = [
                    f"{kinds[kind][figure]:,.0f}"
                    if figure == "rate"
                    else f"{kinds[kind][figure]:.1f}"
                    if kind in kinds
                    else NOTHING
                    for kind in HTTP_KINDS
                    for figure in ("p50", "p99", "rate")
                ]
                rows.append([name, *cells])
            lines += [f"### {group.title}", "", *table(["", *columns], rows), ""]
            lines += [
                f"- not answered as it should be: {name}: {_short(why)}" for name, why in entry["failures"].items()
            ]
            lines += [""] * bool(entry["failures"])
        return lines

    def _sizes(self) -> Figures:
        """Return the figures of the memory store by the number of sessions."""
        sizes: Figures = self._memory.get("sizes", {}).get("figures", {})
        return sizes

    def _memory_store(self) -> list[str]:
        rows = []
        for size, parts in self._sizes().items():
            for part, name in (("store", "the memory store"), ("plain", "a dict of dicts")):
                if figures := parts.get(part):
                    cells = [f"{figures[figure]:.1f}" for figure in ("set_us", "get_us", "merge_us")]
                    told = str(figures["stats_bytes"]) if "stats_bytes" in figures else NOTHING
                    rows.append([f"{int(size):,}", name, *cells, f"{figures['rss_bytes']:,}", told])
        return table(["sessions", "", "set, µs", "get, µs", "merge, µs", "bytes a session", "by `stats()`"], rows)

    def _longest(self) -> tuple[list[str], list[list[str]]]:
        heads, rows = ["sessions"], []
        for size, parts in self._sizes().items():
            if "store" in parts:
                longest = parts["store"]["longest"]
                heads = ["sessions", *longest]
                cells = [f"{call['own_ms']:.2f} ({call['wall_ms']:.1f})" for call in longest.values()]
                rows.append([f"{int(size):,}", *cells])
        return heads, rows

    def _left_out(self) -> list[str]:
        return [
            f"{int(size):,} sessions: {parts['left_out']}. `scripts/bench --full --only memory-store` measures them."
            for size, parts in self._sizes().items()
            if "left_out" in parts
        ]

    def _unmeasured(self) -> list[str]:
        found: dict[str, str] = {}
        for part in (self._groups, self._http):
            for entry in part.values():
                found |= entry.get("unmeasured", {})
        return [f"- {name}: {reason}" for name, reason in sorted(found.items())] or ["Nothing that was meant to be."]

    def _peers(self) -> Iterable[tuple[Group, int, Subject]]:
        for group in GROUPS:
            for at_once in group.at_once:
                for subject in self._present(group):
                    if subject.against:
                        yield group, at_once, subject

    def _present(self, group: Group) -> list[Subject]:
        known = self._groups.get(group.key, {}).get("subjects", {})
        return [subject for subject in group.subjects if subject.name in known]

    def _gross(self, group: Group, name: str, kind: Kind, at_once: int) -> float | None:
        times = self._groups[group.key]["subjects"].get(name, {}).get("times", {})
        taken: float | None = times.get(str(at_once), {}).get(kind, {}).get("us")
        return taken

    def _net(self, group: Group, subject: Subject, kind: Kind, at_once: int) -> float | None:
        gross, alone = (self._gross(group, name, kind, at_once) for name in (subject.name, subject.bare))
        return None if gross is None or alone is None else gross - alone

    def _share(self, group: Group, subject: Subject, kind: Kind, at_once: int) -> float | None:
        peers = self._net(group, subject, Kind.UNTOUCHED if kind is Kind.UNLOADED else kind, at_once)
        mine = self._net(group, group.subject(subject.against), kind, at_once)
        if peers is None or mine is None or peers < LEAST_NET:
            return None
        return max(mine, 0.0) / peers

    def _spelled(self, group: Group, subject: Subject, kind: Kind, at_once: int) -> str:
        share = self._share(group, subject, kind, at_once)
        if share is None:
            return NOTHING
        told = f"**{share:.2f}**" if share > SLOWER else f"{share:.2f}"
        theirs = Kind.UNTOUCHED if kind is Kind.UNLOADED else kind
        spreads = (
            self._spread(group, subject.against, kind, at_once),
            self._spread(group, subject.name, theirs, at_once),
        )
        return f"~{told}" if max(spreads) > UNSURE else told

    def _spread(self, group: Group, name: str, kind: Kind, at_once: int) -> float:
        """Return how far the quartiles of a figure lie apart, as a part of it."""
        times = self._groups[group.key]["subjects"][name]["times"][str(at_once)][kind]
        return float((times["high"] - times["low"]) / times["us"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, all columns but the first to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _label(subject: Subject, at_once: int) -> str:
    named = _named(subject)
    return f"{named}, {at_once} at once" if at_once > 1 else named


def _named(subject: Subject) -> str:
    where = WHERE.get(subject.place, "")
    return subject.name if not where or where.lower() in subject.name.lower() else f"{subject.name}, {where}"


def _bracketed(net: float | None, gross: float | None) -> str:
    if gross is None:
        return NOTHING
    return f"({gross:,.0f})" if net is None else f"{net:,.0f} ({gross:,.0f})"


def _short(reason: str) -> str:
    return " ".join(reason.split())[:200]
