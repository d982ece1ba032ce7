"""The README's code runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.asgi_client import Client
from tests.documents import code_of
from tests.patience import PATIENCE

README = Path(__file__).parent.parent / "README.md"


def module_of(name: str) -> ModuleType:
    module = ModuleType(f"readme_{name}")
    sys.modules[module.__name__] = module
    exec(compile(code_of(README, name), f"README.md ({name})", "exec"), module.__dict__)  # noqa: S102 - the README's own
    return module


def token_in(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]


async def test_the_fastapi_example_logs_in_and_out_and_refuses_what_is_forged():
    client = Client(module_of("fastapi").app)

    async def post(path: str, **form: str) -> Any:
        body = urlencode(form).encode()
        headers = [
            (b"host", b"shop.example"),
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", str(len(body)).encode()),
            *([(b"cookie", client.cookie.encode())] if client.cookie else []),
        ]
        return await client.get(path, method="POST", headers=headers, body=body)

    page = (await client.get("/")).body.decode()
    assert "Log in" in page
    before = client.cookie
    assert (await post("/log-in", password="tea", csrf_token="forged")).status == 403
    stranger, client.cookie = client.cookie, None
    assert (await post("/log-in", password="tea")).status == 403
    client.cookie = stranger
    assert "Log out" not in (await client.get("/")).body.decode()
    await post("/log-in", password="tea", csrf_token=token_in(page))
    assert client.cookie != before
    page = (await client.get("/")).body.decode()
    assert "Log out Ada" in page
    assert (await post("/log-out")).status == 403
    await post("/log-out", csrf_token=token_in(page))
    assert client.cookie is None
    assert "Log out" not in (await client.get("/")).body.decode()


def test_the_flask_example_counts_and_refuses_what_is_forged():
    client = module_of("flask").app.test_client()
    page = client.get("/").text
    assert "<p>0</p>" in page
    assert client.post("/add", data={"csrf_token": "forged"}).status_code == 403
    for _ in range(2):
        client.post("/add", data={"csrf_token": token_in(page)})
    assert "<p>2</p>" in client.get("/").text


def test_the_django_settings_serve_sessions_and_log_in(tmp_path):
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", tmp_path], timeout=PATIENCE, check=True)
    with (tmp_path / "shop" / "settings.py").open("a") as settings:
        settings.write(f"""
{code_of(README, "django")}
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "site_urls"
""")
    (tmp_path / "site_urls.py").write_text(
        """
from django.http import JsonResponse
from django.urls import path


def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return JsonResponse({"count": request.session["count"], "user": request.user.username})


urlpatterns = [path("", count)]
"""
    )
    script = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from django.test import Client
client = Client()
assert client.get("/").json() == {"count": 1, "user": ""}
assert client.get("/").json() == {"count": 2, "user": ""}
client.force_login(User.objects.create_user("ada"))
assert client.get("/").json() == {"count": 3, "user": "ada"}
client.logout()
assert client.get("/").json() == {"count": 1, "user": ""}
"""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", README.read_text()))))
def test_what_the_readme_links_to_is_there(link):
    assert (README.parent / link).exists()
