"""Which of the attacks a run makes."""

import re
from binascii import crc32
from collections import Counter

import pytest

from tests.attacks.stage import INTERFACES

INTERFACE = re.compile(rf"\b({'|'.join(INTERFACES)})\b")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make each attack over one of the interfaces: half of them over the one, and half over the other."""
    served = [item for item in items if "interface" in getattr(item, "fixturenames", ())]
    names = [INTERFACE.sub("", item.nodeid) for item in served]
    count = Counter(names)
    for item, name in zip(served, names, strict=True):
        interface = INTERFACES[crc32(name.encode()) % len(INTERFACES)]
        if count[name] > 1 and not re.search(rf"\b{interface}\b", item.nodeid):
            item.add_marker(pytest.mark.again)
