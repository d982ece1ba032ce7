"""One request and its one response: the sequence that every adapter drives, in both colours."""

from server_session.exchange.colours import AwaitedBody, BlockingExchange, Body, Exchange

__all__ = ["AwaitedBody", "BlockingExchange", "Body", "Exchange"]
