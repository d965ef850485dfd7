"""Runs the actions of a rule on its output, and its error action when any of them failed for good.

How an action is performed is the side's to know; it says that one failed for good by raising EvaluationError, and
whatever else it raises is taken for that too. One action's failure leaves the others alone. The error action is run
once per rule and message, however many actions failed, with a document in the form that AWS documents under "Error
handling (error action)". An evaluation that fails is no failure of an action: it is counted and logged, as AWS does it.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rules.actions import Action, DynamoDBv2, Firehose, Lambda, Republish, Sns
from rules.engine import Rule, output_bytes
from rules.errors import failure
from rules.event import Event

ERROR_ACTION = -1  # its place among the rule's actions

Perform: TypeAlias = Callable[[Action, Event, Any, bytes, int], None]
"""Performs an action for an event: given the output, how that is written, and the action's place in the rule."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One action that failed for good, what it was to act on, and why."""

    action: str
    resource: str
    message: str
    of_error_action: bool = False


def act(rule: Rule, event: Event, output: Any, payload: bytes, perform: Perform) -> Sequence[Failure]:
    """Perform every action of a rule; returns what failed, which is in the rule's counters too."""
    failures: list[Failure] | None = None
    for place, action in enumerate(rule.actions):
        try:
            perform(action, event, output, payload, place)
        except Exception as error:  # noqa: BLE001 - one action must never stop the others, nor the next message
            failures = [*(failures or ()), _failure(rule, action, error)]
    if failures is None:
        return ()
    if rule.error_action is None:
        return failures
    try:
        document = error_document(rule.name, event, failures)
        perform(rule.error_action, event, document, output_bytes(document), ERROR_ACTION)
    except Exception as error:  # noqa: BLE001 - likewise
        failures.append(_failure(rule, rule.error_action, error, of_error_action=True))
    return failures


def error_document(rule: str, event: Event, failures: Sequence[Failure]) -> dict[str, Any]:
    """What the error action of `rule` is given instead of the rule's output.

    `topic` is what rules see, without the prefix of Basic Ingest.
    """
    return {
        "ruleName": rule,
        "topic": event.topic,
        "cloudwatchTraceId": event.trace_id,
        "clientId": event.message.client_id or "n/a",
        "base64OriginalPayload": b64encode(event.message.payload).decode(),
        "failures": [
            {
                "failedAction": f"{failure.action}Action",
                "failedResource": failure.resource,
                "errorMessage": failure.message,
            }
            for failure in failures
        ],
    }


def _failure(rule: Rule, action: Action, error: Exception, *, of_error_action: bool = False) -> Failure:
    rule.counters.actions_failed += 1
    rule.counters.last_error = failure(error)
    return Failure(type(action).__name__, resource(action), failure(error), of_error_action)


def resource(action: Action) -> str:
    """What an action acts on, as its rules file says it."""
    match action:
        case Republish():
            return action.topic.source
        case Lambda():
            return action.function_arn.source
        case DynamoDBv2():
            return action.put_item.table_name
        case Firehose():
            return action.delivery_stream_name
        case Sns():
            return action.target_arn
    return ""
