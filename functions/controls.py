"""What `tidegate functions` asks a running daemon through its control socket; the same on both sides."""

from dataclasses import asdict
from typing import Any

from core.control import Handler
from functions.errors import FunctionsError, InvalidParameter
from functions.service import Functions

PAGE = 1_000  # dead letters at a time
SHOWN_BYTES_MAX = 1 << 20  # of a payload: what an event may have


def handlers(functions: Functions) -> dict[str, Handler]:
    """By command."""
    controls = _Controls(functions)
    return {
        "functions-changed": controls.changed,
        "functions-status": controls.status,
        "functions-dead-list": controls.list_dead,
        "functions-dead-show": controls.show_dead,
        "functions-dead-replay": controls.replay_dead,
        "functions-dead-drop": controls.drop_dead,
    }


class _Controls:
    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    async def changed(self, _: dict[str, Any]) -> dict[str, Any]:
        """Something was deployed or removed."""
        await self._functions.reload()
        return {"functions": len(self._functions.current)}

    async def status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What they do, of one function or of all."""
        return await self._functions.status(arguments.get("function") or "")

    async def list_dead(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The oldest dead letters."""
        limit = min(int(arguments.get("limit") or PAGE), 10 * PAGE)
        found = await self._functions.asynchronous.dead_letters(arguments.get("function") or "", most=limit)
        return {"dead": [asdict(letter) for letter in found]}

    async def show_dead(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """One of them with its payload."""
        found = await self._functions.asynchronous.dead_letter(int(arguments.get("id") or 0))
        payload = found.payload
        return {
            **asdict(found.letter),
            "payload": "damaged on disk" if payload is None else payload[:SHOWN_BYTES_MAX].decode(errors="replace"),
            "client_context": found.client_context.decode(errors="replace"),
            "response": found.response.decode(errors="replace"),
        }

    async def replay_dead(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Have them tried again."""
        count, missing = 0, list[int]()
        for identity in await self._meant(arguments):
            try:
                await self._functions.asynchronous.replay(identity)
            except InvalidParameter:
                missing.append(identity)
                continue
            except FunctionsError as error:
                raise FunctionsError(f"dead letter {identity}: {error}; {count} are back in the queue") from None
            count += 1
        return {"count": count, "missing": missing}

    async def drop_dead(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Delete them."""
        count, missing = 0, list[int]()
        for identity in await self._meant(arguments):
            try:
                await self._functions.asynchronous.drop(identity)
            except InvalidParameter:
                missing.append(identity)
                continue
            count += 1
        return {"count": count, "missing": missing}

    async def _meant(self, arguments: dict[str, Any]) -> list[int]:
        ids = arguments.get("ids")
        if ids:
            return [int(identity) for identity in ids]
        found = await self._functions.asynchronous.dead_letters(arguments.get("function") or "", most=10 * PAGE)
        return [letter.id for letter in found]
