"""One request and its one response: the sequence that every adapter drives, in both colours."""

from server_session.exchange.awaiting import AwaitedBody, Exchange
from server_session.exchange.blocking import BlockingExchange, Body

__all__ = ["AwaitedBody", "BlockingExchange", "Body", "Exchange"]
