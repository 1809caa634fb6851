"""How a user names a model on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from paramscope.errors import UsageError

_ID = re.compile(
    r"(?P<scheme>hf://)?(?P<repo_id>(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b)(@(?P<revision>[^\s@]+))?",
    re.ASCII,
)
_FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json")


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository on the Hub, and the revision asked for; None is the default branch."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


def parse_hub_id(text: str, *, single: bool = False) -> HubId | None:
    """Read `org/name`, `org/name@revision` or `hf://org/name@revision`.

    Args:
        single: accept a bare `name` too (`gpt2`); with `hf://` it is always accepted.

    Returns:
        None where the text is not of that form. Whether a local path of that name exists,
        and then wins, is for the caller to say.
    """
    match = _ID.fullmatch(text)
    if match is None:
        return None
    repo_id, scheme = match["repo_id"], match["scheme"]
    if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        return None
    if not scheme and (repo_id.endswith(_FILE_ENDINGS) or not (single or "/" in repo_id)):
        return None
    return HubId(repo_id, match["revision"])


def pinned(model: str | HubId, revision: str | None) -> HubId:
    """The id, with the revision that was given apart from it.

    Raises:
        UsageError: the text is no id, or names another revision.
    """
    hub_id = parse_hub_id(model, single=True) if isinstance(model, str) else model
    if hub_id is None:
        raise UsageError(
            f"{model}: expected a model on the Hub, such as Qwen/Qwen3-4B or "
            "Qwen/Qwen3-4B@main. Check the id."
        )
    if revision and hub_id.revision and revision != hub_id.revision:
        raise UsageError(f"{model}: names one revision, --revision another ({revision}). Give one.")
    return replace(hub_id, revision=revision or hub_id.revision)
