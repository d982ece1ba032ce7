"""The project, set up once for a process."""

from pathlib import Path

import django
import pytest

from server_session import _sessions


def set_up(folder: Path) -> None:
    """Let Django know the project, whose database is to be in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SITE_DATABASE", str(folder / "site.sqlite3"))
        patch.setenv("DJANGO_SETTINGS_MODULE", "tests.django_site.settings")
        # The app configures the default, which other tests of this process have none of.
        patch.setattr(_sessions, "_configured", None)
        django.setup()
