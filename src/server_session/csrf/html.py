"""What a page carries so that its forms and scripts bear the CSRF token."""

from functools import cache
from typing import Final

__all__ = ["Html", "csrf_input", "csrf_meta", "csrf_script"]

# Python's own `html` would load its table of all named characters at every import of the library.
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


class Html(str):
    """HTML that templates insert as it is: Jinja2, Django and every other that asks for `__html__`.

    What is made from it (`+`, `format`, a slice) is plain text again, and escaped.
    """

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def csrf_input(token: str, field: str = "csrf_token") -> Html:
    """Return the hidden input with which a form sends the token.

    Args:
        token: what `get_csrf_token` returned; unless it is text, awaited, this raises `TypeError`.
        field: the `field` of the `CSRF` policy.

    """
    return Html(f'<input type="hidden" name={_quoted("field", field)} value={_quoted("token", token)}>')


def csrf_meta(token: str, header: str = "X-CSRF-Token", field: str = "csrf_token", *, single_use: bool = False) -> Html:
    """Return the meta element from which `csrf_script` takes the token; it belongs in the page's head.

    Args:
        token: what `get_csrf_token` returned; unless it is text, awaited, this raises `TypeError`.
        header: the `header` of the `CSRF` policy.
        field: its `field`: the script renews the forms' tokens when it has to fetch a fresh one.
        single_use: its `single_use`. The token of the meta element is then for scripts alone; each form has its own.

    """
    settings = f"data-header={_quoted('header', header)} data-field={_quoted('field', field)}"
    once = " data-single-use" if single_use else ""
    return Html(f'<meta name="csrf-token" content={_quoted("token", token)} {settings}{once}>')


def csrf_script(nonce: str | None = None) -> Html:
    """Return the script that signs `fetch` and `XMLHttpRequest` (so htmx and axios too), as an element.

    Only what goes to the page's own origin is signed. A `fetch` that a stale token failed is tried once more with a
    fresh one, for which the page itself is fetched again; any other call has failed, and the next one passes. A signed
    `fetch` follows no redirect to another origin; an `XMLHttpRequest` takes its header there if that origin allows the
    header (CORS). A request that has the header already is left as it is.

    It belongs before every script that sends. To serve it as a file, take `csrf.js` of this package.

    Args:
        nonce: that of the page's Content-Security-Policy; unless it is text this raises `TypeError`.

    """
    attribute = "" if nonce is None else f" nonce={_quoted('nonce', nonce)}"
    return Html(f"<script{attribute}>{_source()}</script>")


@cache
def _source() -> str:
    from importlib.resources import files

    return files("server_session").joinpath("csrf.js").read_text("utf-8")


def _quoted(name: str, text: str) -> str:
    if not isinstance(text, str):
        hint = "; await get_csrf_token" if hasattr(text, "__await__") else ""
        raise TypeError(f"{name} is text, not {type(text).__name__}{hint}")
    return f'"{str.translate(text, _ESCAPES)}"'
