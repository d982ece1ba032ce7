"""The protocol of Redis, by hiredis: a command's bytes, and the answers in what has come."""

from typing import Any, Final

import hiredis
from redis.connection import DefaultParser
from redis.exceptions import InvalidResponse

__all__ = ["NOT_YET", "Answers", "Notice", "packed"]

packed: Final[Any] = hiredis.pack_command
"""Returns the bytes that send a command, given as a tuple of bytes. (redis-py calls the same, 16 calls deeper.)"""

NOT_YET: Final = object()
"""In the place of an answer of which not all has come."""

Notice: Final[Any] = hiredis.PushNotification
"""What a server says by RESP3 that is no answer."""


class Answers(hiredis.Reader):
    """Takes what has come by `feed` and gives an answer at a time by `gets`, as an error of redis-py's if it is one.

    Raises:
        InvalidResponse: What has come is no answer.
    """

    def __init__(self) -> None:
        super().__init__(protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=NOT_YET)
