"""Errors of the Hub in our words: what happened, and the next step."""

from __future__ import annotations

from paramscope.errors import SourceError, nearest_first
from paramscope.source.hub_cache import cache_sentence


def explained(
    error: Exception, *, repo_id: str, revision: str | None, endpoint: str, has_token: bool
) -> SourceError:
    """The SourceError that says what an error of huggingface_hub means for this model.

    The text never repeats the library's own, which may quote addresses with signatures.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = repo_id if revision is None else f"{repo_id}@{revision}"
    if isinstance(error, OfflineModeIsEnabled):
        return SourceError(
            f"{where}: HF_HUB_OFFLINE is set, so the Hub is not asked. "
            f"{cache_sentence(repo_id, revision)} Unset HF_HUB_OFFLINE to go online."
        )
    if isinstance(error, GatedRepoError):  # before its base, RepositoryNotFoundError
        return SourceError(
            f"{where}: the model is gated. Accept its licence at https://huggingface.co/{repo_id}, "
            + ("with the account of your token." if has_token else "then run: hf auth login")
        )
    if isinstance(error, RepositoryNotFoundError):
        return SourceError(
            f"{where}: {endpoint} has no such model, or it is private"
            + (" and your token may not see it." if has_token else ".")
            + " Check the spelling"
            + ("." if has_token else "; for a private model run: hf auth login (or set HF_TOKEN).")
        )
    if isinstance(error, RevisionNotFoundError):
        return SourceError(_no_revision(repo_id, revision, endpoint))
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return SourceError(
            f"{where}: {endpoint} refuses the token (401). Run: hf auth login, or unset HF_TOKEN."
        )
    if status == 403:
        return SourceError(
            f"{where}: {endpoint} forbids access (403). The token lacks the permission, or the "
            f"repository is disabled. See https://huggingface.co/{repo_id}"
        )
    if status == 404:
        return SourceError(
            f"{where}: {endpoint} no longer has a file that it listed. Start again; "
            "if HF_ENDPOINT names a mirror, it may be behind the Hub."
        )
    return SourceError(f"{where}: {endpoint} answered {status or type(error).__name__}. Try again.")


def unreachable(what: str, *, repo_id: str, revision: str | None, endpoint: str) -> SourceError:
    """The SourceError for an endpoint that cannot be reached, with what the cache still offers."""
    where = repo_id if revision is None else f"{repo_id}@{revision}"
    return SourceError(
        f"{where}: {endpoint} cannot be reached: {what}. Check the network, or "
        f"set HF_ENDPOINT to a mirror. {cache_sentence(repo_id, revision)}"
    )


def _no_revision(repo_id: str, revision: str | None, endpoint: str) -> str:
    known = _revisions(repo_id, endpoint)
    listed = ", ".join(nearest_first(revision or "main", known)[:8])
    hint = f" It has: {listed}." if known else f" See https://huggingface.co/{repo_id}/refs."
    return f"{repo_id}: {endpoint} has no revision {revision or 'main'!r} of it.{hint}"


def _revisions(repo_id: str, endpoint: str) -> list[str]:
    """Branches and tags; none where the endpoint does not say."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi(endpoint=endpoint).list_repo_refs(repo_id)
    except Exception:  # the answer only adds to a message about another error
        return []
    return [ref.name for ref in (*refs.branches, *refs.tags)]
