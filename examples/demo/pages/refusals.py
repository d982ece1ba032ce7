"""What this process has refused of late, and why."""

from fastapi import APIRouter, Request, Response

from examples.demo.view import render

router = APIRouter()


@router.get("/refused")
async def show(request: Request) -> Response:
    return await render(request, "refusals.html", refusals=[*reversed(request.app.state.refusals)])
