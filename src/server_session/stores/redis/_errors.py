"""What the errors of Redis and of redis-py mean, and what mends them."""

import re
from typing import Final

from redis.exceptions import ResponseError

__all__ = ["MENDS", "NEEDS", "RIGHTS", "explain"]

RIGHTS: Final = "time hget hgetall hset hdel hexists exists del unlink pttl pexpireat"
"""The commands that an access control list is to allow to the script."""
NEEDS: Final = f"its user needs +eval +evalsha +{RIGHTS.replace(' ', ' +')} on the store's prefix (docs/stores.md)"

# What is wrong, in a word, by the name of redis-py's error and what Redis says; and what mends it.
_MARKS: Final = {
    "rights": r"NoPermissionError|can't run this command",
    "replica": r"ReadOnlyError",
    "password": r"AuthenticationError|NOAUTH|WRONGPASS|unauthenticated",
    "cluster": r"MovedError|AskError",
    "memory_full": r"OutOfMemoryError",
    "disk_full": r"MISCONF",
    "old_server": r"(unknown|Invalid) command|non deterministic",
    "certificate": r"SSL: \w*CERTIFICATE|PEM lib",
    "no_file": r"No such file",
    "busy": r"BUSY Redis",
    "few_replicas": r"NOREPLICAS",
    "starting": r"ClusterDownError|BusyLoadingError|MasterDownError",
    "connections": r"MaxConnections|No connection available|max number of clients",
    "unreachable": r"connecting to",
}
MENDS: Final = {
    "rights": NEEDS,
    "replica": "this is a replica: name the master, or ask a Sentinel for it",
    "password": "look at user and password in the URL",
    "cluster": "this is a node of a Cluster: give the store a RedisCluster of redis-py",
    "memory_full": "its memory is full: raise maxmemory",
    "disk_full": "it cannot write to its disk: is that full?",
    "old_server": "it is older than Redis 5, or the command was renamed",
    "certificate": "name the authority that signed its certificate by ?ssl_ca_certs=/path/of/its.pem, and, where it "
    "asks for one, yours by ssl_certfile and ssl_keyfile",
    "no_file": "a file that the URL names is not there: the socket, or what ssl_ca_certs and its like name",
    "busy": "another client's script keeps it: SCRIPT KILL ends that",
    "few_replicas": "it has fewer replicas than min-replicas-to-write asks for: bring them back",
    "starting": "it is starting, or a fail-over is under way",
    "connections": "more calls at once than connections",
    "unreachable": "does it run, there? Look at host and port, and at its log",
}


def explain(error: Exception) -> str:
    """Say what kind of error it is, what mends it and what was said, without hosts, and without values."""
    kind, said = type(error).__name__, str(error)
    mend = next((MENDS[code] for code, marks in _MARKS.items() if re.search(marks, f"{kind} {said}")), "")
    hidden = r"\S+:\d+\S*|, with args.*" if mend and isinstance(error, ResponseError) else r"\S+:\d+\S*|['\"`].*"
    said = re.sub(hidden, "…", said, flags=re.DOTALL)
    return kind + (f": {mend}" if mend else "") + (f" (it said: {said})" if said else "")
