"""What the admin has permissions of. No table is made: sessions are in their store."""

from typing import Any

from django.db import models

__all__ = ["Session"]


class _NoRows(models.Manager["Session"]):
    def get_queryset(self) -> Any:
        """Return no rows, without a look: `dumpdata` asks every model."""
        return super().get_queryset().none()


class Session(models.Model):  # noqa: DJ008 - there is none to show
    """A session, to the admin: `server_session.view_session` and `server_session.delete_session`."""

    objects = _NoRows()

    class Meta:  # noqa: D106
        managed = False
        default_permissions = ("view", "delete")
