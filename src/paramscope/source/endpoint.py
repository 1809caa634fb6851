"""One endpoint of the Hub, and requests to it: who may see the token, which errors pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paramscope.errors import SourceError
from paramscope.source.hub_errors import explained, unreachable
from paramscope.source.hub_id import HubId
from paramscope.source.retries import (
    RETRIED_STATUS,
    PassingError,
    Retries,
    retry_after_s,
    retrying,
)

if TYPE_CHECKING:
    from httpx2 import Response  # httpx under huggingface_hub 1, with the same interface

_API_TRIES = 3  # with no network at all, the answer should not take a minute


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where a model is asked for, and as whom.

    Attributes:
        url: the Hub, or a mirror of it, without a slash at the end.
        headers: what requests to the endpoint carry, the token among them; other hosts never
            see them, nor does any text.
        stopped: set when nobody waits for answers any more; ends waits and transfers.
    """

    url: str
    hub_id: HubId
    headers: Mapping[str, str]
    retries: Retries
    stopped: threading.Event = field(default_factory=threading.Event)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {str(self.hub_id)!r})"

    def owns(self, url: str) -> bool:
        """Whether the address has the endpoint's scheme, host and port."""
        return origin(url) == origin(self.url)

    def headers_for(self, url: str) -> dict[str, str]:
        """The headers that a request to that address may carry."""
        return {**(self.headers if self.owns(url) else {}), "Accept-Encoding": "identity"}

    def ask(self, url: str) -> Response:
        """The response to a GET of the API, read to its end.

        Raises:
            SourceError: refused, or not to be reached; the message says the next step.
        """
        try:
            return retrying(
                lambda: self._ask(url),
                replace(self.retries, tries=min(_API_TRIES, self.retries.tries)),
                where=str(self.hub_id),
                stopped=self.stopped,
            )
        except SourceError as error:
            passing = error.__cause__
            if not isinstance(passing, PassingError) or passing.__cause__ is None:
                raise
            raise unreachable(
                str(passing),
                repo_id=self.hub_id.repo_id,
                revision=self.hub_id.revision,
                endpoint=self.url,
            ) from error

    def _ask(self, url: str) -> Response:
        from huggingface_hub import get_session

        with self.translated():
            response = get_session().get(
                url,
                headers=self.headers_for(url),
                timeout=self.retries.timeout_s,
                follow_redirects=True,  # the HTTP library drops the token when the host changes
            )
            raise_for_status(response)
        return response

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of huggingface_hub and of its HTTP library, as ours or as one that may pass."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            yield
        except HfHubHTTPError as error:
            if error.response.status_code in RETRIED_STATUS:
                raise answered(error.response) from None
            raise self._explained(error) from None
        except OfflineModeIsEnabled as error:
            raise self._explained(error) from None
        except http_error() as error:
            raise PassingError(_connection(error)) from error

    def _explained(self, error: Exception) -> SourceError:
        return explained(
            error,
            repo_id=self.hub_id.repo_id,
            revision=self.hub_id.revision,
            endpoint=self.url,
            has_token="authorization" in self.headers,
        )


def connect(
    hub_id: HubId,
    *,
    token: str | bool | None = None,
    endpoint: str | None = None,
    retries: Retries | None = None,
) -> Endpoint:
    """The endpoint that HF_ENDPOINT names, with the token that HF_TOKEN or a login gives.

    Raises:
        SourceError: huggingface_hub is not installed; the message says how to install it.
    """
    try:
        from huggingface_hub import constants, utils
    except ImportError:
        raise SourceError(
            f"{hub_id}: a model on the Hub needs the package huggingface_hub. "
            "Run: pip install 'huggingface_hub>=1.31,<3'"
        ) from None
    import paramscope

    headers = utils.build_hf_headers(  # type: ignore[attr-defined]  # public, re-exported
        token=token, library_name="paramscope", library_version=paramscope.__version__
    )
    url = (endpoint or constants.ENDPOINT).rstrip("/")
    return Endpoint(url, hub_id, headers, retries or Retries())


def raise_for_status(response: Response) -> None:
    """Raise huggingface_hub's error for a status of refusal, told apart by `X-Error-Code`."""
    from huggingface_hub import utils

    utils.hf_raise_for_status(response)  # type: ignore[attr-defined]  # public, re-exported


def answered(response: Response) -> PassingError:
    """The error for a status that may be another one at the next attempt."""
    return PassingError(
        f"{urlsplit(str(response.url)).hostname} answered {response.status_code}",
        retry_after_s=retry_after_s(response.headers.get("Retry-After")),
    )


def passing(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a body; a connection that breaks meanwhile may be asked again."""
    try:
        yield from pieces
    except http_error() as error:
        raise PassingError(_connection(error)) from error


def http_error() -> type[Exception]:
    """The base of what the HTTP library raises: httpx under huggingface_hub 1, httpx2 under 2."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def origin(url: str) -> str:
    """Scheme, host and port of an address: what decides who may see a token."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def _connection(error: Exception) -> str:
    name = type(error).__name__
    if "ConnectTimeout" in name:
        return "no connection (no answer in time)"
    if "Timeout" in name:
        return "the server stayed silent"
    if "Connect" in name or "Proxy" in name:
        return f"no connection ({str(error) or name:.100})"
    return "the connection was cut"
