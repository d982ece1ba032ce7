"""What other pages try in a visitor's name: from where, by what means, and with what. The words are in forgery.html."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple


class Attack(NamedTuple):
    name: str
    site: Literal["other", "sibling", "own"]
    """Whose page it is: another site's, another origin's of the same site, or one of the shop's own."""
    means: Literal["form", "call", "json", "socket", "stale"]
    path: str
    fields: Mapping[str, str] = MappingProxyType({})
    method: Literal["POST", "GET"] = "POST"
    token: Literal["none", "own", "foreign"] = "none"
    """Which CSRF token the form bears: none, a valid one of the visitor's, or a valid one of another session."""
    hides_origin: bool = False
    """Whether the page forbids the browser to say where its requests come from."""
    requests: int = 1
    """How many it takes."""


_DEAREST = {"tea": "puerh"}

_ATTACKS = (
    Attack("form", "other", "form", "/cart/add", _DEAREST),
    Attack("call", "other", "call", "/cart/add", _DEAREST),
    Attack("json", "other", "json", "/api/wishes", {"text": "A hundred packets"}),
    Attack("stolen", "sibling", "form", "/cart/add", _DEAREST, token="own"),
    Attack("log-in", "other", "form", "/log-in", {"name": "Mallory", "password": "oolong"}),
    Attack("log-out", "sibling", "form", "/log-out"),
    Attack("devices", "sibling", "form", "/devices/end", {"device": "everywhere"}),
    Attack("link", "other", "form", "/cart/one-more", _DEAREST, "GET"),
    Attack("socket", "sibling", "socket", "/devices/live"),
    Attack("hidden-elsewhere", "other", "form", "/cart/add", _DEAREST, hides_origin=True),
    Attack("hidden", "own", "form", "/cart/add", {"tea": "sencha"}, hides_origin=True),
    Attack("foreign", "own", "form", "/cart/add", {"tea": "sencha"}, token="foreign", hides_origin=True),
    Attack("signed", "own", "form", "/cart/add", {"tea": "sencha"}, token="own", hides_origin=True),
    Attack("stale", "own", "stale", "/api/wishes", {"text": "A tea from before the log-in"}, requests=2),
)
ATTACKS = {attack.name: attack for attack in _ATTACKS}
