"""Somebody else's site: it recommends the shop by a link, and then tries to shop in a visitor's name."""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from examples.demo.attacks import ATTACKS
from examples.demo.view import HERE

templates = Jinja2Templates(HERE / "templates" / "partner")


def create_partner(shop: str) -> Starlette:
    async def show_article(request: Request) -> Response:
        return show(request, "article.html")

    async def show_attack(request: Request) -> Response:
        attack = ATTACKS.get(request.path_params["name"])
        if attack is None or attack.site == "own":
            raise HTTPException(HTTPStatus.NOT_FOUND)
        template = "form.html" if attack.means == "form" else "script.html"
        response = show(request, template, attack=attack, token=request.query_params.get("token"))
        if attack.hides_origin:
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def show(request: Request, template: str, **values: object) -> Response:
        # By the shop's own host name this is the same site to a browser, though another origin.
        is_sibling = request.url.hostname == host_of(shop)
        origin = f"{request.url.scheme}://{request.url.netloc}"
        return templates.TemplateResponse(
            request, template, {"shop": shop, "is_sibling": is_sibling, "origin": origin, **values}
        )

    return Starlette(
        routes=[
            Route("/", show_article),
            Route("/attack/{name}", show_attack),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
    )


def host_of(url: str) -> str:
    return url.split("//")[1].rpartition(":")[0]
