"""A part that is one page: a script calls the API, and signs each call with the token that the last one answered."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, StringConstraints

from examples.demo.view import render
from examples.demo.visitor import visitor_of
from server_session import get_csrf_token, update_session_data

MOST = 12

router = APIRouter()


class Wish(BaseModel):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]


class Wishes(BaseModel):
    wishes: list[str]
    csrf_token: str
    """Signs the next call."""


@router.get("/wishes")
async def show(request: Request) -> Response:
    return await render(request, "wishes.html", with_forms=True)


@router.post("/api/wishes")
async def add(request: Request, wish: Wish) -> Wishes:
    def put_in(data: dict[str, Any]) -> None:
        wishes = data.setdefault("wishes", [])
        if wish.text not in wishes and len(wishes) < MOST:
            wishes.append(wish.text)

    await update_session_data(request, put_in)
    return await answer(request)


@router.post("/api/wishes/remove")
async def remove(request: Request, wish: Wish) -> Wishes:
    def take_out(data: dict[str, Any]) -> None:
        data["wishes"] = [text for text in data.get("wishes", []) if text != wish.text]

    await update_session_data(request, take_out)
    return await answer(request)


async def answer(request: Request) -> Wishes:
    visitor = await visitor_of(request)
    return Wishes(wishes=visitor.get("wishes", []), csrf_token=await get_csrf_token(request))
