"""Sends what subscriptions are owed: to webhooks, to MQTT topics, to the log.

The shell around `owed` (which decides) and `webhook` (which posts). Each subscription has a task of its
own, and each webhook a thread of its own, so one that is dead holds up only itself: it rests after every
failure, longer each time.

Invariants:
1. At most `BATCH_MAX` notifications are sent between two commits, so a crash repeats no more than those.
2. A round ends at the first failure.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import random

from cloud.targets import owed, webhook
from cloud.targets.alerts import message_for
from cloud.targets.config import Subscription, TopicConfig
from cloud.targets.owed import Due, Outcome, retry_ms
from core.errors import StorageError, TidegateError
from core.store import Store
from core.telemetry import Counters, get_logger

BATCH_MAX = 16

log = get_logger("cloud.targets.notifier")


class Notifier:
    """Delivers the notifications of the configured topics from a store.

    `clock` gives milliseconds since the epoch. `publish(topic, payload)` publishes on the cloud's own broker;
    a TidegateError from it is retried.
    """

    def __init__(
        self,
        store: Store,
        config: Mapping[str, TopicConfig],
        clock: Callable[[], int],
        publish: Callable[[str, bytes], None],
        counters: Counters,
        *,
        answer_seconds: float = webhook.ANSWER_SECONDS,
    ) -> None:
        self._store = store
        self._config = dict(config)
        self._clock = clock
        self._publish = publish
        self._counters = counters
        self._answer_seconds = answer_seconds
        self._wakes: list[asyncio.Event] = []

    def wake(self) -> None:
        """Say that notifications were committed."""
        for event in self._wakes:
            event.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for topic, config in self._config.items():
                for subscription in config.subscriptions:
                    tasks.create_task(self._serve(topic, subscription))

    async def _serve(self, topic: str, subscription: Subscription) -> None:
        wake = asyncio.Event()
        self._wakes.append(wake)
        threads = ThreadPoolExecutor(1, thread_name_prefix="webhook")  # starts no thread before its first use
        failures = 0
        try:
            while True:
                wake.clear()
                failed, wait_ms = await self._round(topic, subscription, threads)
                failures = failures + 1 if failed else 0
                if failed:
                    await asyncio.sleep(retry_ms(failures, random()) / 1000)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                        await wake.wait()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _round(
        self, topic: str, subscription: Subscription, threads: ThreadPoolExecutor
    ) -> tuple[bool, int | None]:
        """Send what is due: whether an attempt failed, and in how many milliseconds more may be due."""
        label, now_ms = subscription.label, self._clock()
        try:
            found, wait_ms = await self._store.run(lambda c: owed.due(c, topic, label, now_ms, BATCH_MAX))
            if not found:
                return False, wait_ms
            outcomes: list[Outcome] = []
            for each in found:
                outcomes.append(await self._attempt(topic, subscription, each, threads))
                if outcomes[-1].error is not None:
                    break
            settled_ms, jitter = self._clock(), random()
            await self._store.run(lambda c: owed.settle(c, topic, label, outcomes, settled_ms, jitter))
        except StorageError as error:
            log.error("notifications not settled", topic=topic, subscription=label, reason=error)
            return True, None
        return outcomes[-1].again, 0

    async def _attempt(self, topic: str, subscription: Subscription, due: Due, threads: ThreadPoolExecutor) -> Outcome:
        attempts = due.attempts + 1
        try:
            await self._send(topic, subscription, due, threads)
        except (webhook.NotDelivered, TidegateError) as error:
            final = isinstance(error, webhook.NotDelivered) and error.final
            outcome = Outcome(due.number, attempts, str(error), final)
            words = "notification will be sent again" if outcome.again else "notification given up"
            log.warning(words, topic=topic, subscription=subscription.label, attempts=attempts, reason=error)
            self._counters.add("alert_attempts_failed_total", topic=topic)
            return outcome
        self._counters.add("alerts_delivered_total", topic=topic)
        return Outcome(due.number, attempts)

    async def _send(self, topic: str, subscription: Subscription, due: Due, threads: ThreadPoolExecutor) -> None:
        text = message_for(subscription.protocol, due.message, due.structured)
        if subscription.webhook is not None:
            body = webhook.notification_body(topic, due.message_id, due.at_ms, due.subject, text)
            headers = webhook.notification_headers(topic, due.message_id)
            await webhook.post(subscription.webhook, headers, body, threads, self._answer_seconds)
        elif subscription.mqtt is not None:
            self._publish(subscription.mqtt, text.encode())
        else:
            log.info("alert", topic=topic, message=text, message_id=due.message_id)
