"""Views of each colour. What a test wants done inside one it puts into `script`."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import engines
from django.views import View
from django.views.decorators.csrf import csrf_exempt as djangos_csrf_exempt

from server_session.django import csrf_exempt, csrf_protect, ensure_csrf_cookie
from tests.patience import PATIENCE

script: Callable[..., Any] = dict
gate = threading.Barrier(1)
awaiting_gate = asyncio.Barrier(1)


def data(request: HttpRequest) -> JsonResponse:
    return JsonResponse(dict(request.session.items()))


async def adata(request: HttpRequest) -> JsonResponse:
    return JsonResponse(dict(await request.session.aitems()))


def set_key(request: HttpRequest, key: str, value: str) -> HttpResponse:
    request.session[key] = value
    return HttpResponse("set")


async def aset_key(request: HttpRequest, key: str, value: str) -> HttpResponse:
    await request.session.aset(key, value)
    return HttpResponse("set")


def meet(request: HttpRequest, key: str) -> HttpResponse:
    request.session[key] = key
    gate.wait(PATIENCE)
    return HttpResponse("met")


async def ameet(request: HttpRequest, key: str) -> HttpResponse:
    await request.session.aset(key, key)
    await asyncio.wait_for(awaiting_gate.wait(), PATIENCE)
    return HttpResponse("met")


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("nothing")


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


def message(request: HttpRequest, text: str) -> HttpResponse:
    before = [str(one) for one in messages.get_messages(request)]
    messages.success(request, text)
    return JsonResponse(before, safe=False)


def call(request: HttpRequest) -> HttpResponse:
    answer = script(request)
    return answer if isinstance(answer, HttpResponseBase) else JsonResponse(answer, safe=False)


async def acall(request: HttpRequest) -> HttpResponse:
    answer = await script(request)
    return answer if isinstance(answer, HttpResponseBase) else JsonResponse(answer, safe=False)


# --- what tests/test_django_csrf.py asks for


def send(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


async def asend(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@djangos_csrf_exempt
def hook(request: HttpRequest) -> HttpResponse:
    checked = getattr(request, "csrf_processing_done", False)
    return HttpResponse("known to be no forgery" if checked else "unknown")


@csrf_exempt
def own_hook(request: HttpRequest) -> HttpResponse:
    return call(request)


@csrf_protect(strict=True)
def strict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@csrf_protect(scoped=True)
def scoped(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@djangos_csrf_exempt
@csrf_protect(strict=True)
def exempt_and_strict(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@csrf_exempt
@csrf_protect
def checked_late(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


@csrf_protect
async def acheck(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sent")


class Sending(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("sent")


@csrf_exempt
class Hook(Sending):
    pass


@csrf_protect(strict=True)
class Strict(Sending):
    pass


@csrf_protect(strict=True)
class AwaitingStrict(View):
    async def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("sent")


@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


@ensure_csrf_cookie
async def apage(request: HttpRequest) -> HttpResponse:
    return HttpResponse("page")


def failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return HttpResponse(f"our own page: {reason}", status=403, headers={"Cache-Control": "public, max-age=60"})


def failure_with_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    page = engines["django"].from_string("our own page: {{ reason }} {% csrf_token %}")
    return HttpResponse(page.render({"reason": reason}, request), status=403)


async def afailure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return HttpResponse(f"our own page: {reason}", status=403)
