"""What templates call for the request that is being served: its token, and the elements that bear it."""

from collections.abc import Callable, Mapping
from typing import Final

from server_session._arguments import TokenScope, scope_of
from server_session._colour import running_library
from server_session.csrf.html import Html, csrf_input, csrf_meta, csrf_script
from server_session.csrf.policy import CSRF
from server_session.exceptions import CarrierError
from server_session.exchange import BlockingExchange, Exchange
from server_session.http.carrier import resolve
from server_session.http.requests import Request

__all__ = ["served", "template_functions"]

# With `csrf=None` the elements have the default names of the field and the header.
_DEFAULT_POLICY: Final = CSRF()


def served(request: Request | None = None) -> Exchange:
    """Return the exchange of a request that is served, by default the one here; raises `CarrierError` without any."""
    if request is None:
        request = resolve(()).request
    # Of several the innermost; one that has left within another's request is not meant.
    for base in reversed(request.served):
        exchange: Exchange = request.exchanges[base]
        if exchange.is_served:
            return exchange
    raise CarrierError("no middleware or extension of server_session serves sessions to this request")


def _here() -> Exchange | BlockingExchange:
    exchange = served()
    return exchange if running_library() else exchange.blocking


def template_functions(
    exchange_of: Callable[[], Exchange | BlockingExchange] = _here,
) -> Mapping[str, Callable[..., str]]:
    """Return `csrf_token(scope)`, `csrf_input(scope)`, `csrf_meta(scope)` and `csrf_script(nonce)`, by their names.

    A token founds a session, so none is made before a template asks for it.

    Args:
        exchange_of: finds the exchange of the request that is being served, by default as the functions do: its
            `blocking` one where it may ask the store, as where no event loop runs; of the other it is an error
            (`ColourError`) to need a token for which the store has to be asked.

    """

    def token(scope: TokenScope | None = None) -> str:
        return exchange_of().csrf_token(scope_of(scope))

    def field(scope: TokenScope | None = None) -> Html:
        return csrf_input(token(scope), policy().field)

    def meta(scope: TokenScope | None = None) -> Html:
        named = policy()
        return csrf_meta(token(scope), named.header, named.field, single_use=named.single_use)

    def policy() -> CSRF:
        return exchange_of().sessions.csrf or _DEFAULT_POLICY

    return {"csrf_token": token, "csrf_input": field, "csrf_meta": meta, "csrf_script": csrf_script}
