"""A device in words in which its owner knows it again."""

_BROWSERS = (
    # Most call themselves Safari too, and many Chrome: who is named by fewer comes first.
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("iPhone", "an iPhone"),
    ("iPad", "an iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "a Mac"),
    ("Linux", "Linux"),
)


def device_of(user_agent: str) -> str:
    """Return what a `User-Agent` means: `Firefox on Windows`. It is what the browser said, and proves nothing."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "A browser unknown to us")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return f"{browser} on {system}" if system else browser
