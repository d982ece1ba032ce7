"""An app that stands before ours, and hears of log-ins."""

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in

# A test's own, what the receiver does.
script: Callable[[Any], Any] | None = None


def hear(*, request: Any, **_: object) -> None:
    if script is not None:
        script(request)


class Site(AppConfig):
    name = "tests.django_site"

    def ready(self) -> None:
        user_logged_in.connect(hear)
