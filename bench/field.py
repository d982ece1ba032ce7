"""What is measured beside what: the groups, and the applications of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.asking import Kind

SESSION_KINDS = (Kind.NO_COOKIE, Kind.UNTOUCHED, Kind.READ, Kind.WRITE, Kind.FIRST)
CSRF_KINDS = (Kind.TOKEN, Kind.CHECK)
OURS = "server-session"


@dataclass(frozen=True)
class Subject:
    """An application that is measured."""

    name: str
    application: str
    place: str = ""
    bare: str = ""
    """The application without sessions, whose cost is taken off."""
    against: str = ""
    """The one of ours that it is compared with; none where it is ours, or bare."""
    kinds: Sequence[Kind] = SESSION_KINDS
    needs: Sequence[str] = ()
    """Distributions of Python, or packages of Node.js."""

    @property
    def is_bare(self) -> bool:
        """Whether it has no sessions."""
        return not self.bare

    @property
    def is_node(self) -> bool:
        """Whether it runs under Node.js."""
        return self.application.startswith("node:")


@dataclass(frozen=True)
class Group:
    """Applications that are measured in turn, so that whatever else the machine does meets them all."""

    key: str
    title: str
    subjects: Sequence[Subject]
    at_once: Sequence[int] = (1,)
    counted: bool = False
    """Whether calls are counted."""
    note: str = ""

    def subject(self, name: str) -> Subject:
        """Return the subject of a name."""
        return next(subject for subject in self.subjects if subject.name == name)


def bare(name: str, application: str, *needs: str, kinds: Sequence[Kind] = (*Kind,)) -> Subject:
    """Return an application without sessions."""
    return Subject(name, application, kinds=kinds, needs=needs)


STARLETTE = bare("Starlette alone", "starlette:bare", "starlette")
EXPRESS = bare("Express alone", "node:bare", "express", kinds=(*SESSION_KINDS, *CSRF_KINDS))
FLASK = bare("Flask alone", "flask:bare", "flask", kinds=(*SESSION_KINDS, *CSRF_KINDS))
WSGI = bare("WSGI alone", "wsgi:bare", kinds=(*SESSION_KINDS, *CSRF_KINDS))
DJANGO = bare("Django alone", "django:bare", "django", kinds=(*SESSION_KINDS, *CSRF_KINDS))
FRAMEWORKS = {
    framework: bare(
        f"{framework} alone",
        f"{framework.lower().replace(' ', '_')}:bare",
        framework.lower().partition(" ")[0],
        kinds=(*SESSION_KINDS, *CSRF_KINDS),
    )
    for framework in ("Litestar", "aiohttp", "Quart", "Sanic", "Tornado", "Falcon ASGI", "Falcon", "Bottle", "Pyramid")
}
"""The application without sessions of each framework that has an adapter of its own, but those above."""


def ours(framework: str, place: str, name: str = "", *needs: str) -> Subject:
    """Return the application of a framework with the sessions of this project."""
    kinds = (*Kind,) if framework == "Starlette" else (*SESSION_KINDS, *CSRF_KINDS)
    module = framework.lower().replace(" ", "_")
    distributions = (*(() if framework == "WSGI" else (module.partition("_")[0],)), *needs)
    name = name or f"{OURS} ({framework})"
    return Subject(name, f"{module}:ours", place, f"{framework} alone", kinds=kinds, needs=distributions)


def peer(
    name: str, application: str, place: str, alone: Subject, against: str, *needs: str, csrf: bool = False
) -> Subject:
    """Return an application with the sessions of another library."""
    kinds = (*SESSION_KINDS, *CSRF_KINDS) if csrf else SESSION_KINDS
    return Subject(name, application, place, alone.name, f"{OURS} ({against})", kinds, needs or alone.needs)


GROUPS = (
    Group(
        "asgi-memory",
        "In memory, awaiting",
        (
            ours("Starlette", "memory"),
            peer("starsessions", "starlette:starsessions", "memory", STARLETTE, "Starlette", "starsessions"),
            peer("Starlette's signed cookie", "starlette:cookie", "", STARLETTE, "Starlette", "itsdangerous"),
            peer(
                "next-server-session",
                "node:next-server-session",
                "",
                EXPRESS,
                "Starlette",
                "next-server-session",
                csrf=True,
            ),
            peer("express-session", "node:express-session", "", EXPRESS, "Starlette", "express-session"),
            STARLETTE,
            EXPRESS,
        ),
        counted=True,
    ),
    Group(
        "asgi-redis",
        "On Redis, awaiting",
        (
            ours("Starlette", "redis"),
            peer("starsessions", "starlette:starsessions", "redis", STARLETTE, "Starlette", "starsessions"),
            STARLETTE,
        ),
        (1, 32),
    ),
    Group(
        "asgi-stores",
        "Our other stores, awaiting",
        (
            ours("Starlette", "file", f"{OURS}, files"),
            ours("Starlette", "sqlite", f"{OURS}, SQLite (sqlite3)", "sqlalchemy"),
            ours("Starlette", "aiosqlite", f"{OURS}, SQLite (aiosqlite)", "aiosqlite"),
            ours("Starlette", "postgresql", f"{OURS}, PostgreSQL (asyncpg)", "asyncpg"),
            STARLETTE,
        ),
        (1, 32),
    ),
    Group(
        "wsgi-memory",
        "In memory, blocking",
        (
            ours("Flask", "memory"),
            peer("Flask's signed cookie", "flask:cookie", "", FLASK, "Flask"),
            ours("WSGI", "memory"),
            peer("Beaker", "wsgi:beaker", "memory", WSGI, "WSGI", "beaker"),
            FLASK,
            WSGI,
        ),
        counted=True,
    ),
    Group(
        "wsgi-file",
        "In files, blocking",
        (
            ours("Flask", "file"),
            peer(
                "Flask-Session (cachelib)", "flask:flask_session", "file", FLASK, "Flask", "flask-session", "cachelib"
            ),
            ours("WSGI", "file"),
            peer("Beaker", "wsgi:beaker", "file", WSGI, "WSGI", "beaker"),
            FLASK,
            WSGI,
        ),
        (1, 32),
    ),
    Group(
        "wsgi-redis",
        "On Redis, blocking",
        (
            ours("Flask", "redis"),
            peer("Flask-Session", "flask:flask_session", "redis", FLASK, "Flask", "flask-session"),
            FLASK,
        ),
        (1, 32),
    ),
    Group(
        "django-memory",
        "Django, in memory",
        (
            ours("Django", "memory"),
            peer("Django's cache (memory)", "django:cache", "memory", DJANGO, "Django", csrf=True),
            DJANGO,
        ),
        counted=True,
    ),
    Group(
        "django-redis",
        "Django, on Redis",
        (
            ours("Django", "redis"),
            peer("Django's cache (Redis)", "django:cache", "redis", DJANGO, "Django", csrf=True),
            DJANGO,
        ),
        (1, 32),
    ),
    Group(
        "django-sqlite",
        "Django, in SQLite",
        (
            ours("Django", "sqlite", "", "sqlalchemy"),
            peer("Django's db (defaults)", "django:db", "sqlite", DJANGO, "Django", csrf=True),
            peer("Django's db (WAL)", "django:db_wal", "sqlite", DJANGO, "Django", csrf=True),
            peer("Django's cached_db (memory)", "django:cached_db", "sqlite", DJANGO, "Django", csrf=True),
            DJANGO,
        ),
        (1, 32),
    ),
    Group(
        "frameworks-memory",
        "Other frameworks, in memory",
        (
            *(ours(framework, "memory") for framework in FRAMEWORKS),
            peer("Litestar's sessions", "litestar:sessions", "memory", FRAMEWORKS["Litestar"], "Litestar"),
            peer(
                "aiohttp-session's encrypted cookie",
                "aiohttp:aiohttp_session",
                "",
                FRAMEWORKS["aiohttp"],
                "aiohttp",
                "aiohttp-session",
                "cryptography",
            ),
            peer("Quart's signed cookie", "quart:cookie", "", FRAMEWORKS["Quart"], "Quart"),
            peer("Beaker on Bottle", "bottle:beaker", "memory", FRAMEWORKS["Bottle"], "Bottle", "beaker"),
            peer("Beaker on Pyramid", "pyramid:beaker", "memory", FRAMEWORKS["Pyramid"], "Pyramid", "pyramid-beaker"),
            *FRAMEWORKS.values(),
        ),
        counted=True,
    ),
    Group(
        "frameworks-redis",
        "Other frameworks, on Redis",
        (
            *(ours(framework, "redis") for framework in FRAMEWORKS),
            peer("Litestar's sessions", "litestar:sessions", "redis", FRAMEWORKS["Litestar"], "Litestar"),
            peer(
                "aiohttp-session",
                "aiohttp:aiohttp_session",
                "redis",
                FRAMEWORKS["aiohttp"],
                "aiohttp",
                "aiohttp-session",
            ),
            peer("Quart-Session", "quart:quart_session", "redis", FRAMEWORKS["Quart"], "Quart", "quart-session"),
            peer("Beaker on Bottle", "bottle:beaker", "redis", FRAMEWORKS["Bottle"], "Bottle", "beaker"),
            peer("Beaker on Pyramid", "pyramid:beaker", "redis", FRAMEWORKS["Pyramid"], "Pyramid", "pyramid-beaker"),
            *FRAMEWORKS.values(),
        ),
        (1, 32),
        counted=True,
    ),
)
