"""What the demo was started with. It reaches the worker processes by the environment."""

import os
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Settings:
    store: str = "memory:"
    shop: str = "http://127.0.0.1:8000"
    partner: str = "http://localhost:8001"

    @property
    def sibling(self) -> str:
        """The other site by the shop's own host name: another origin, and to a browser the same site."""
        return f"{self.shop.rpartition(':')[0]}:{self.partner.rpartition(':')[2]}"

    def as_environment(self) -> dict[str, str]:
        return {f"DEMO_{name.upper()}": value for name, value in asdict(self).items()}

    @classmethod
    def from_environment(cls) -> Self:
        given = {name: os.environ.get(f"DEMO_{name.upper()}") for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in given.items() if value})


def is_one_process(store: str) -> bool:
    """Tell whether no other process sees what is in a store."""
    return store.lower().startswith("memory:")


def place_of(store: str) -> str:
    """Return a store's URL as it may be shown: without user, password and query."""
    scheme, _, place = store.partition("://")
    if not place:
        return store
    account, _, rest = place.rpartition("@")
    # An "@" behind a "?" may belong to a password on either side of it.
    return f"{scheme}://…" if "?" in account else f"{scheme}://{rest.partition('?')[0]}"
