"""Sessions in Redis or Valkey: a hash a session, one key and one command a call."""

from server_session.stores.redis._store import Client, RedisSessionStore

__all__ = ["Client", "RedisSessionStore"]
