"""Views of each colour. What a test wants done inside one it puts into `script`."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse

script: Callable[..., Any] = lambda request: None
gate = threading.Barrier(1)
arrived = 0
everybody = asyncio.Event()


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
    global arrived
    await request.session.aset(key, key)
    arrived += 1
    if arrived == gate.parties:
        everybody.set()
    await asyncio.wait_for(everybody.wait(), 20)
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
    return answer if isinstance(answer, HttpResponse) else JsonResponse(answer, safe=False)


async def acall(request: HttpRequest) -> HttpResponse:
    answer = await script(request)
    return answer if isinstance(answer, HttpResponse) else JsonResponse(answer, safe=False)
