"""Views of each colour. What a test wants done inside one it puts into `script`."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

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
    gate.wait(20)
    return HttpResponse("met")


async def ameet(request: HttpRequest, key: str) -> HttpResponse:
    await request.session.aset(key, key)
    await asyncio.wait_for(awaiting_gate.wait(), 20)
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
