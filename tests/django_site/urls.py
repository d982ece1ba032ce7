from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView, PasswordChangeView
from django.urls import path

from tests.django_site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("log-in", LoginView.as_view(template_name="admin/login.html", next_page="/data")),
    path("log-out", LogoutView.as_view(next_page="/data")),
    path("password", PasswordChangeView.as_view(success_url="/data")),
    path("data", views.data),
    path("adata", views.adata),
    path("set/<key>/<value>", views.set_key),
    path("aset/<key>/<value>", views.aset_key),
    path("meet/<key>", views.meet),
    path("ameet/<key>", views.ameet),
    path("nothing", views.nothing),
    path("who", views.who),
    path("message/<text>", views.message),
    path("call", views.call),
    path("acall", views.acall),
    path("send", views.send),
    path("asend", views.asend),
    path("hook", views.hook),
    path("own-hook", views.own_hook),
    path("class-hook", views.Hook.as_view()),
    path("class", views.Sending.as_view()),
    path("class-strict", views.Strict.as_view()),
    path("class-astrict", views.AwaitingStrict.as_view()),
    path("strict", views.strict),
    path("scoped", views.scoped),
    path("exempt-and-strict", views.exempt_and_strict),
    path("checked-late", views.checked_late),
    path("acheck", views.acheck),
    path("page", views.page),
    path("apage", views.apage),
]
