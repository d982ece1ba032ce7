"""How settings are read and checked; and the error for an unknown option."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from server_session.exceptions import ConfigurationError, shown

_LONGEST: Final = timedelta.max.total_seconds()


def require(holds: bool, setting: str, wanted: str, given: object) -> None:
    """Raise `ConfigurationError`, which names the setting and what is wanted of it, unless this holds."""
    if not holds:
        raise ConfigurationError(f"{setting} is {wanted}, not {shown(given)}")


def seconds_of(setting: str, given: object) -> float:
    """Return a duration in seconds.

    Raises `ConfigurationError`, which names the setting, unless it is positive, and no more than a timedelta can be.
    """
    # total_seconds, for timedelta.seconds is 0 for whole days.
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST:
        raise ConfigurationError(f"{setting} must be a positive number of seconds or a timedelta, not {shown(given)}")
    return float(seconds)


def seconds_if_given(setting: str, given: object) -> float | None:
    """Return what `seconds_of` does; `None` for `None`."""
    return None if given is None else seconds_of(setting, given)


def count_of(setting: str, given: object) -> int:
    """Return a whole number above 0; raises `ConfigurationError`, which names the setting, for anything else."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ConfigurationError(f"{setting} is a whole number above 0, not {shown(given)}")
    return given


def flag_of(setting: str, given: object) -> bool:
    """Return True or False; raises `ConfigurationError`, which names the setting, for anything else."""
    # A text from the environment is true even if it says "false".
    if not isinstance(given, bool):
        raise ConfigurationError(f"{setting} is True or False, not {shown(given)}")
    return given


def unknown_option(of: str, keyword: str, options: Collection[str], hints: Mapping[str, str]) -> ConfigurationError:
    """Return the error for an unknown option; `hints` say what to do, by the names of options of other libraries."""
    plain = keyword.replace("_", "").lower()
    alike = [f"it is spelt `{option}`" for option in options if option.replace("_", "") == plain]
    hint = hints.get(keyword.lower()) or "".join(alike) or f"it takes {', '.join(options)}"
    return ConfigurationError(f"{of} has no option {keyword!r}: {hint}")
