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
]
