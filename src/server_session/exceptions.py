"""Everything that server-session raises, as one tree.

```text
SessionError
├── ConfigurationError (ValueError)      a setting that cannot work
│   └── NotConfiguredError               a function was called before configure()
├── CarrierError (TypeError)             the arguments of a function hold no request, or cannot be read
├── ColourError (RuntimeError)           a blocking call over a store that awaits, or the like
├── SerializationError (ValueError)      a value that would not come out as it went in
├── DataTypeError (ValueError)           stored data does not fit the asked-for type
├── LimitError (ValueError)              a session larger than its bounds; nothing was written
├── NotFreshError                        the log-in is too long ago for what is asked: ask for the password again
├── ConflictError                        update_session_data ran out of time
├── SessionNotLoadedError                a mapping was touched before it was loaded
├── NoResponseError                      a cookie must be set and there is no response to set it on
├── ResponseStartedError                 a cookie must be set and the headers have been sent
└── UnavailableError                     the session cannot be had: it is answered in the application's place
    ├── CookieWithheldError              another site sent the request, so its cookie did not come with it: 403
    └── StoreError                       the store did not answer, or not as it must: 503
        ├── StoreDownError               it could not be asked, or did not answer in time
        ├── StoreFullError               the store refuses what needs more room, until others expire
        └── RecordError                  a record that cannot be read
```
"""

from typing import Final

__all__ = [
    "CarrierError",
    "ColourError",
    "ConfigurationError",
    "ConflictError",
    "CookieWithheldError",
    "DataTypeError",
    "LimitError",
    "NoResponseError",
    "NotConfiguredError",
    "NotFreshError",
    "RecordError",
    "ResponseStartedError",
    "SerializationError",
    "SessionError",
    "SessionNotLoadedError",
    "StoreDownError",
    "StoreError",
    "StoreFullError",
    "UnavailableError",
]

_SHOWN: Final = 100


def shown(given: object) -> str:
    """Return what an error shows of what was given: no more than the beginning."""
    try:
        text = repr(given)
    except ValueError:
        # Python writes out no number of more than 4,300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class SessionError(Exception):
    """The root of everything that this library raises."""


class ConfigurationError(SessionError, ValueError):
    """A setting, or two settings together, that cannot work."""


class NotConfiguredError(ConfigurationError):
    """A function was called before `configure()`."""


class CarrierError(SessionError, TypeError):
    """The arguments hold no request, response or context that can be read."""


class ColourError(SessionError, RuntimeError):
    """A blocking call where only an awaiting one can work, or the reverse."""


class SerializationError(SessionError, ValueError):
    """A value that would not come out equal and of the same type. Nothing was written.

    `key` is the session's key, `where` the place inside its value (`""` for the value itself).
    """

    def __init__(self, key: object, where: str, reason: str) -> None:
        super().__init__(f"session key {shown(key)}{where and f' at {where}'}: {reason}")
        self.key = key
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[object, ...], dict[str, object]]:
        # pickle and copy would call the class with the message alone.
        return type(self), (self.key, self.where, self.reason), self.__dict__


class DataTypeError(SessionError, ValueError):
    """The session's data does not fit the type asked for with `as_type`; it names the field."""


class LimitError(SessionError, ValueError):
    """A session would grow beyond one of its bounds. Nothing was written."""


class NotFreshError(SessionError):
    """The user logged in too long ago for what is asked, or never: ask for the password again."""


class UnavailableError(SessionError):
    """The session is unavailable. If nobody catches this, the adapter answers in the application's place."""


class CookieWithheldError(UnavailableError):
    """Another site sent this request, so the browser withheld the session's cookie. Nothing was written.

    A session founded now would replace the browser's. Redirect (303) to a GET of your own: it comes with the cookie.
    """


class ConflictError(SessionError):
    """`update_session_data` ran out of time among other writers. Nothing was written; calling again is safe."""


class SessionNotLoadedError(SessionError):
    """The request's mapping was touched before it was loaded (`autoload=False`)."""


class NoResponseError(SessionError):
    """A cookie must be set, and there is no response to set it on. Nothing was written."""


class ResponseStartedError(SessionError):
    """A cookie must be set, and the response's headers have been sent. Nothing was written."""


class StoreError(UnavailableError):
    """The store did not answer within its limit of time, or answered with an error."""


class StoreDownError(StoreError):
    """The store could not be asked, or did not answer in time; a write was made whole, or not at all.

    When no call was answered for a while, only one now and then is made, and the others raise this at once.
    """


class StoreFullError(StoreError):
    """The store is at its bound, and refuses what needs more room. Nothing was written."""


class RecordError(StoreError):
    """A stored record that cannot be read: damaged, or written by something else."""
