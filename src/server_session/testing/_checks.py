"""What a test asks, and what it says when the answer is another."""

from typing import cast

from server_session.stores._base import Fields, Outcome

__all__ = ["check", "check_equal", "shown"]


def shown(value: object) -> str:
    """Return a value's text, short enough for a message."""
    if isinstance(value, Outcome):
        return value.name
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}… ({len(text)} characters)"


def check(holds: object, what: str) -> None:
    """Raise `AssertionError` with this text unless it holds."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(what)


def check_equal(got: object, want: object, what: str) -> None:
    """Raise `AssertionError` unless the two are equal; of two records, name the fields in which they differ."""
    __tracebackhide__ = True
    if got == want:
        return
    check(isinstance(got, dict) and isinstance(want, dict), f"{what}: got {shown(got)}, want {shown(want)}")
    got, want = cast("Fields", got), cast("Fields", want)
    faults = [f"no field {shown(name)}" for name in want if name not in got]
    faults += [f"field {shown(name)} should not be there" for name in got if name not in want]
    faults += [
        f"field {shown(name)} is {shown(got[name])}, want {shown(want[name])}"
        for name in want
        if name in got and got[name] != want[name]
    ]
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    raise AssertionError(f"{what}: {'; '.join(faults[:5])}{more}")
