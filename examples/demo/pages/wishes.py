"""A part that is one page: a script calls the API, and another signs its calls."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, StringConstraints

from examples.demo.view import render
from examples.demo.visitor import visitor_of
from server_session import csrf_protect, update_session_data

MOST = 12

router = APIRouter()


class Wish(BaseModel):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


class Wishes(BaseModel):
    wishes: list[str]


@router.get("/wishes")
async def show(request: Request) -> Response:
    return await render(request, "wishes.html", with_forms=True)


@router.post("/api/wishes")
@csrf_protect(strict=True)
async def add(request: Request, wish: Wish) -> Wishes:
    def put_in(data: dict[str, Any]) -> None:
        wishes = data.setdefault("wishes", [])
        if wish.text not in wishes and len(wishes) < MOST:
            wishes.append(wish.text)

    await update_session_data(request, put_in)
    return await answer(request)


@router.post("/api/wishes/remove")
@csrf_protect(strict=True)
async def remove(request: Request, wish: Wish) -> Wishes:
    def take_out(data: dict[str, Any]) -> None:
        data["wishes"] = [text for text in data.get("wishes", []) if text != wish.text]

    await update_session_data(request, take_out)
    return await answer(request)


async def answer(request: Request) -> Wishes:
    return Wishes(wishes=(await visitor_of(request)).get("wishes", []))
