"""A small OAuth 2.0 provider (RFC 6749, with PKCE by RFC 7636): it asks for a name, and believes it."""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from html import escape
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID = "shop"
CLIENT_SECRET = "shop's secret"

_ASKED = ("client_id", "redirect_uri", "response_type", "state", "code_challenge", "code_challenge_method")


@dataclass
class Grant:
    name: str
    redirect_uri: str
    challenge: str


class Provider:
    def __init__(self) -> None:
        self.codes: dict[str, Grant] = {}
        self.tokens: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/authorize", self.ask),
                Route("/authorize", self.grant, methods=["POST"]),
                Route("/token", self.exchange, methods=["POST"]),
                Route("/userinfo", self.tell),
            ]
        )

    async def ask(self, request: Request) -> Response:
        asked = request.query_params
        if asked.get("client_id") != CLIENT_ID or asked.get("response_type") != "code":
            return HTMLResponse("no such client", 400)
        if asked.get("code_challenge_method") != "S256":
            return HTMLResponse("PKCE is required", 400)
        kept = "".join(f'<input type="hidden" name="{key}" value="{escape(asked[key])}">' for key in _ASKED)
        return HTMLResponse(f'<form method="post">{kept}<input name="name"><button>I am this</button></form>')

    async def grant(self, request: Request) -> Response:
        form = {key: str(value) for key, value in (await request.form()).items()}
        code = secrets.token_urlsafe()
        self.codes[code] = Grant(form["name"], form["redirect_uri"], form["code_challenge"])
        answer = urlencode({"code": code, "state": form["state"]})
        return RedirectResponse(f"{form['redirect_uri']}?{answer}", 303)

    async def exchange(self, request: Request) -> Response:
        form = await request.form()
        grant = self.codes.pop(str(form.get("code")), None)
        identified = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {identified}":
            return JSONResponse({"error": "invalid_client"}, 401)
        if (
            grant is None
            or grant.redirect_uri != form.get("redirect_uri")
            or not _fits(grant, form.get("code_verifier"))
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        token = secrets.token_urlsafe()
        self.tokens[token] = grant.name
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    async def tell(self, request: Request) -> Response:
        name = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return JSONResponse({"name": name}, 200 if name else 401)


def _fits(grant: Grant, verifier: object) -> bool:
    digest = hashlib.sha256(str(verifier).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == grant.challenge
