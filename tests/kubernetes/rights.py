"""The rights that the document gives the engine: what the tests' clusters grant it, and nothing beside."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

__all__ = ["granted", "needed_by"]

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
_VERBS = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
_PATH = re.compile(r"/api/v1/namespaces/[^/]+/(?P<kind>[a-z]+)(/(?P<name>[^/]+)(/(?P<part>[a-z]+))?)?")


def granted() -> set[tuple[str, str]]:
    """Resource and verb, as the role in the document has them."""
    section = _DOCUMENT.read_text().split("## The rights that it needs", 1)[1]
    role = yaml.safe_load(section.split("```yaml", 1)[1].split("```", 1)[0])
    return {(kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}


def needed_by(method: str, path: str, *, watches: bool) -> tuple[str, str] | None:
    """What a call takes; None: everybody may.

    https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb
    """
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    kind = f"{found['kind']}/{found['part']}" if found["part"] else found["kind"]
    if method == "GET":
        return kind, "watch" if watches else "get" if found["name"] else "list"
    return kind, _VERBS[method]
