"""One request and its one response: the sequence that every adapter drives, in both colours."""

from server_session.exchange.checked import Body
from server_session.exchange.colours import BlockingExchange, Exchange

__all__ = ["BlockingExchange", "Body", "Exchange"]
