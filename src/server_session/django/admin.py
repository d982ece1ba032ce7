"""A page of Django's admin that lists the sessions of an owner, and ends them: one, or all.

It is there where `"server_session.django"` is in `INSTALLED_APPS`, at `admin:server_session_session_changelist`, with
`?owner=` the user's id. To look takes `server_session.view_session`, to end `server_session.delete_session`.
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from server_session._tokens import short_digest
from server_session.django._project import PROJECT
from server_session.django.models import Session

__all__ = ["SessionAdmin"]

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Session]
else:
    ModelAdmin = admin.ModelAdmin


@admin.register(Session)
class SessionAdmin(ModelAdmin):
    """The page. A session is named in it as in the log, by a short digest: its id stays on the server."""

    def get_urls(self) -> list[URLPattern]:
        """Return the one page that there is."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(self.changelist_view), name=name)]

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Nobody founds a session here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Session | None = None) -> bool:  # noqa: ARG002
        """Nobody writes to one."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """List an owner's sessions; a POST ends what it names."""
        if request.method == "POST":
            return self._end(request)
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        owner = request.GET.get("owner", "")
        listed = PROJECT.sessions().sync.sessions_of(owner, current=request) if owner else []
        context = {
            **self.admin_site.each_context(request),
            "title": f"Sessions of {owner}" if owner else "Sessions",
            "opts": self.opts,
            "owner": owner,
            "sessions": [(short_digest(one.id), one) for one in listed],
            "can_end": self.has_delete_permission(request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/server_session/session/change_list.html", context)

    def _end(self, request: HttpRequest) -> HttpResponse:
        if not self.has_delete_permission(request):
            raise PermissionDenied
        owner, end, ended = request.POST.get("owner", ""), request.POST.get("end"), 0
        functions = PROJECT.sessions().sync
        if owner and end == "all":
            ended = functions.destroy_sessions_of(owner)
        elif owner:
            named = [one.id for one in functions.sessions_of(owner) if short_digest(one.id) == end]
            ended = sum(functions.destroy_sessions_of(owner, only=one) for one in named)
        self.message_user(request, f"{ended} session{'' if ended == 1 else 's'} ended.")
        return HttpResponseRedirect(f"{request.path}?{urlencode({'owner': owner})}")
