"""When to ask a server again, and how long to wait before."""

from __future__ import annotations

import email.utils
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from paramscope.errors import SourceError

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_PROGRESS_BYTES = 2**20  # a connection that brought this much was worth asking again from anew

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How patient a reader is.

    Attributes:
        tries: attempts in a row that bring nothing, before the error.
        first_wait_s: doubled at every further attempt, with a random factor in [0.5, 1).
        longest_wait_s: no single wait is longer; a server that asks for more ends the attempts.
        timeout_s: the longest silence on a connection.
    """

    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0
    timeout_s: float = 30.0

    def wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Seconds to wait after the attempt of that number, counted from 1."""
        if retry_after_s is not None:
            return retry_after_s * (1.0 + random.random() / 20)
        jitter = 0.5 + random.random() / 2  # readers that failed together must not return together
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** (attempt - 1) * jitter)


class PassingError(Exception):
    """A failure that may be over at the next attempt; never seen outside this package.

    Attributes:
        retry_after_s: what the server asked for, None where it asked for nothing.
        progress_bytes: what the failed attempt brought all the same.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, progress_bytes: int = 0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.progress_bytes = progress_bytes


def retrying(
    action: Callable[[], T], retries: Retries, *, where: str, stopped: threading.Event
) -> T:
    """Call `action` until it returns, as often as `retries` allows, or until `stopped` is set.

    Raises:
        SourceError: the attempts are used up, or the server asks for too long a wait.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except PassingError as error:
            if error.progress_bytes >= _PROGRESS_BYTES:
                attempt = 1
            asked_s = error.retry_after_s
            if asked_s is not None and asked_s > retries.longest_wait_s:
                raise SourceError(
                    f"{where}: {error}, and the server asks to wait {asked_s:,.0f} seconds. "
                    "Try again after that; what was fetched is kept."
                ) from error
            if attempt >= retries.tries:
                raise SourceError(
                    f"{where}: {error}, {attempt} times in a row. "
                    "Try again later; what was fetched is kept."
                ) from error
            wait_s = retries.wait_s(attempt, asked_s)
            logger.info("%s: %s; asking again in %.1f s", where, error, wait_s)
            if stopped.wait(wait_s):
                raise SourceError(f"{where}: the reading was stopped.") from error


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
