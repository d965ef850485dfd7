"""One shadow: its document, and what a request makes of it. Values in, values out; the time is an argument.

`update`, `get` and `delete` take the shadow as it is and return the shadow as it will be, with what is told about it:
the answer to whoever asked, and for an update that was accepted `delta` (where desired and reported differ) and
`documents`. Whoever keeps shadows commits the new one before anything is told.

Invariants:
1. A version is one greater with every update that was accepted and every delete, and goes on after a delete.
2. What is refused raises ShadowError and changes nothing.

Will not know topics, nor who may ask, nor where shadows are kept (edge.shadows, cloud.shadows).
"""

import json
from dataclasses import dataclass, field
from typing import Any

from shadow.errors import ShadowError
from shadow.merge import Tree, below, delta, merge, merge_stamps, stamp
from shadow.requests import SECTIONS, Update

DOCUMENT_BYTES_MAX = 8 << 10  # desired and reported as compact JSON (quotas of the Device Shadow service)


@dataclass(frozen=True, slots=True)
class Shadow:
    """The sections that are there, and their metadata.

    Version 0 has never been; what is `deleted` has only its version left.
    """

    version: int = 0
    deleted: bool = False
    state: dict[str, Tree] = field(default_factory=dict)
    metadata: dict[str, Tree] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """Whether there is a document."""
        return self.version > 0 and not self.deleted


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a request: JSON objects. `delta` and `documents` are None where nothing is."""

    accepted: Tree
    delta: Tree | None = None
    documents: Tree | None = None


def update(shadow: Shadow, request: Update, now: int) -> tuple[Shadow, Told]:
    """Merge an update in; `now` is seconds since the Unix epoch. Raises ShadowError."""
    _check_version(shadow, request)
    before = shadow if shadow.exists else Shadow(shadow.version)
    changed = _emptied(before) if request.emptied else _changed(before, request, now)
    if _size(changed) > DOCUMENT_BYTES_MAX:
        raise ShadowError(413, "The payload exceeds the maximum size allowed")
    state, metadata = _echoed(request, now)
    accepted = {"state": state, "metadata": metadata, "version": changed.version}
    documents = {"previous": _whole(before) if shadow.exists else None, "current": _whole(changed)}
    difference = _difference(changed)
    lacking = None
    if difference:
        stamps = below(changed.metadata["desired"], difference)
        lacking = _told({"state": difference, "metadata": stamps, "version": changed.version}, request.token, now)
    return changed, Told(_told(accepted, request.token, now), lacking, _told(documents, request.token, now))


def get(shadow: Shadow, name: str | None, now: int, token: str | None = None) -> Told:
    """The document, with what desired and reported differ in. Raises ShadowError where there is none."""
    if not shadow.exists:
        raise missing(name)
    document = _whole(shadow)
    difference = _difference(shadow)
    if difference:
        document["state"] = {**document["state"], "delta": difference}
    return Told(_told(document, token, now))


def delete(shadow: Shadow, name: str | None, now: int, token: str | None = None) -> tuple[Shadow, Told]:
    """Take the document away; its version is kept, so that the next one goes on. Raises ShadowError."""
    if not shadow.exists:
        raise missing(name)
    gone = Shadow(shadow.version + 1, deleted=True)
    return gone, Told(_told({"version": shadow.version}, token, now))


def missing(name: str | None) -> ShadowError:
    """There is no such shadow; a classic one has no name."""
    return ShadowError(404, f"No shadow exists with name: '{name or ''}'")


def rejected(error: ShadowError, now: int, token: str | None = None) -> Tree:
    """What is told of a request that was refused."""
    return _told({"code": error.code, "message": error.message}, token, now)


def _check_version(shadow: Shadow, request: Update) -> None:
    if request.version is None:
        return
    if not shadow.exists:
        if request.version > 1:
            raise ShadowError(400, "Invalid version")
    elif request.version != shadow.version:
        raise ShadowError(409, "Version conflict")


def _emptied(before: Shadow) -> Shadow:
    return Shadow(before.version + 1)


def _changed(before: Shadow, request: Update, now: int) -> Shadow:
    state, metadata = dict(before.state), dict(before.metadata)
    for name, change in request.changes.items():
        merged = merge(state.get(name, {}), change) if change is not None else {}
        if not merged:
            state.pop(name, None)
            metadata.pop(name, None)
        else:
            assert change is not None
            state[name] = merged
            metadata[name] = merge_stamps(metadata.get(name, {}), merged, change, now)
    return Shadow(before.version + 1, state=_sorted(state), metadata=_sorted(metadata))


def _sorted(sections: dict[str, Tree]) -> dict[str, Tree]:
    return {name: sections[name] for name in SECTIONS if name in sections}


def _echoed(request: Update, now: int) -> tuple[Any, Tree]:
    """State and metadata of `accepted`: what the request said, and nothing else."""
    if request.emptied:
        return None, {"timestamp": now}
    stamps = {
        name: stamp(change, now) if change is not None else {"timestamp": now}
        for name, change in request.changes.items()
    }
    return dict(request.changes), stamps


def _difference(shadow: Shadow) -> Tree:
    return delta(shadow.state.get("desired", {}), shadow.state.get("reported", {}))


def _whole(shadow: Shadow) -> Tree:
    return {"state": dict(shadow.state), "metadata": dict(shadow.metadata), "version": shadow.version}


def _told(document: Tree, token: str | None, now: int) -> Tree:
    told = {**document, "timestamp": now}
    if token is not None:
        told["clientToken"] = token
    return told


def _size(shadow: Shadow) -> int:
    texts = (json.dumps(section, separators=(",", ":"), ensure_ascii=False) for section in shadow.state.values())
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)
