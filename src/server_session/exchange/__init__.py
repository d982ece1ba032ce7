"""One request and its one response: the sequence that every adapter drives, in both colours."""

from server_session.exchange.colours import BlockingExchange, Exchange
from server_session.exchange.steps import Body

__all__ = ["BlockingExchange", "Body", "Exchange"]
