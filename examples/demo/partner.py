"""Somebody else's site: it recommends the shop by a link, and then tries to shop in a visitor's name."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from examples.demo.view import HERE

templates = Jinja2Templates(HERE / "templates" / "partner")


def create_partner(shop: str) -> Starlette:
    def page(path: str, template: str) -> Route:
        async def show(request: Request) -> Response:
            # By the shop's own host name this is the same site to a browser, though another origin.
            values = {
                "shop": shop,
                "sibling": request.url.replace(hostname=host_of(shop)),
                "is_sibling": request.url.hostname == host_of(shop),
                "origin": f"{request.url.scheme}://{request.url.netloc}",
            }
            return templates.TemplateResponse(request, template, values)

        return Route(path, show)

    return Starlette(
        routes=[
            page("/", "article.html"),
            page("/prize", "prize.html"),
            page("/prize/form", "form.html"),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
    )


def host_of(url: str) -> str:
    return url.split("//")[1].rpartition(":")[0]
