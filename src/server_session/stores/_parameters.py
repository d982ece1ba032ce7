"""What all stores ask of their URLs; and the parameters in these, of which none is dropped in silence."""

from urllib.parse import parse_qsl

from server_session.exceptions import ConfigurationError

__all__ = ["parameters_of", "refusal_of", "refuse_parameters", "with_plain_scheme"]


def with_plain_scheme(url: str) -> str:
    """Return the URL with its scheme in lower case: it may be in capitals (RFC 3986, 3.1), which drivers refuse."""
    scheme, colon, rest = url.partition(":")
    return scheme.lower() + colon + rest


def parameters_of(url: str) -> list[tuple[str, str]]:
    """Return what stands after the `?` of a URL, in pairs.

    Raises:
        ConfigurationError: One has no value, or the URL has a character that no URL has.
    """
    # The end of a line, or NUL: taken for a part of a name it leads elsewhere, and drivers have errors of their own.
    if not url.isprintable():
        raise ConfigurationError(
            "the store's URL has a character that cannot be seen, the end of a line perhaps: leave it out, or write %XX"
        )
    query = url.partition("#")[0].partition("?")[2]
    # Where there is an @, a password was not written as it must be, and this is a part of it.
    pairs = [] if "@" in query else parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if not value:
            raise refusal_of(name, "has no value")
    return pairs


def refuse_parameters(url: str, mend: str, *, is_alone: bool = False) -> None:
    """Refuse a URL that has parameters, for a store that takes none; with `is_alone` all that follows its scheme."""
    for name, _ in parameters_of(url):
        raise refusal_of(name, f"is not known: {mend}")
    scheme, _, rest = url.partition(":")
    if is_alone and rest.strip("/?#"):
        # Not shown, for it may hold a password.
        raise ConfigurationError(f"the store's URL is {scheme}: and no more: {mend}")


def refusal_of(name: str, why: str) -> ConfigurationError:
    """Return the error that names a parameter, and not its value."""
    return ConfigurationError(f"the parameter {name!r} in the store's URL {why}")
