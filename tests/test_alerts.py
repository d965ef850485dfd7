"""Notifications reach every subscription of their topic, or it is counted and said why not."""

import asyncio
import logging
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.targets import UnknownTarget, alerts
from cloud.targets.alerts import SCHEMA, Notification, Topics, message_for, message_id, newest, topic_name
from cloud.targets.config import Subscription, TargetsConfig, TopicConfig
from cloud.targets.notifier import Notifier
from cloud.targets.owed import (
    AGE_MAX_MS,
    ATTEMPTS_MAX,
    RETRY_MS_MAX,
    Outcome,
    due,
    failures,
    retry_ms,
    settle,
    tally,
)
from core.errors import TidegateError
from core.store import Store, connect
from core.telemetry import Counters

T0 = 1_735_689_599_655  # 2024-12-31T23:59:59.655Z
LOG = Subscription(log=True)
MQTT = Subscription(mqtt="alerts/shift-lead")


def config(*subscriptions: Subscription) -> dict[str, TopicConfig]:
    return {"alerts": TopicConfig(subscriptions=subscriptions)}


def hook(url: str) -> Subscription:
    return Subscription(webhook=url)


def notification(number: int, text: str = "hot", at_ms: int = T0) -> Notification:
    return Notification(message_id("edge", "lane", 1, number, "Overheat", 0), text.encode(), at_ms)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "cloud.db", SCHEMA)
    yield connection
    connection.close()


# What is kept and owed


def test_a_topic_is_named_by_its_name_or_its_arn() -> None:
    assert topic_name("alerts") == topic_name("arn:aws:sns:eu-west-1:123456789012:alerts") == "alerts"
    Topics(config()).check("arn:aws:sns:eu-west-1:123456789012:alerts")
    with pytest.raises(UnknownTarget, match="no topic 'typo'"):
        Topics(config()).check("typo")


def test_a_message_id_is_a_uuid_that_follows_from_what_caused_it() -> None:
    assert message_id("e", "l", 1, 2, "r", 0) == message_id("e", "l", 1, 2, "r", 0)
    assert len({message_id("e", "l", 1, 2, "r", 0), message_id("e", "l", 1, 2, "r", 1), message_id("el", 1, 2)}) == 3
    assert UUID(message_id("e"))


@pytest.mark.parametrize(("protocol", "text"), [("http", "short"), ("https", "all"), ("mqtt", "all"), ("log", "all")])
def test_a_structured_message_gives_each_protocol_its_own_text(protocol: str, text: str) -> None:
    message = '{"default": "all", "http": "short", "https": {"not": "text"}}'
    assert message_for(protocol, message, True) == text
    assert message_for(protocol, message, False) == message


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Notification("id", b"\xff", T0), "not UTF-8"),
        (Notification("id", b"", T0), "empty"),
        (Notification("id", b"x" * 262_145, T0), "262,145 bytes"),
        (Notification("id", b"x", T0, subject="s" * 101), "subject"),
        (Notification("id", b"{", T0, structured=True), "not JSON"),
        (Notification("id", b'["default"]', T0, structured=True), "member 'default'"),
        (Notification("id", b'{"http": "x"}', T0, structured=True), "member 'default'"),
        (Notification("id", b'{"default": 1}', T0, structured=True), "member 'default'"),
    ],
)
def test_a_message_that_sns_would_refuse_is_refused_and_the_others_are_kept(
    db: sqlite3.Connection, bad: Notification, reason: str
) -> None:
    rejected = Topics(config()).publish(db, "alerts", [notification(1), bad, notification(2)])
    assert [each.index for each in rejected] == [1]
    assert reason in rejected[0].reason
    assert len(newest(db, "alerts", 10)) == 2


def test_a_notification_that_comes_again_is_neither_stored_nor_owed_again(db: sqlite3.Connection) -> None:
    topics = Topics(config(LOG, MQTT))
    topics.publish(db, "alerts", [notification(1), notification(1), notification(2)])
    settle(db, "alerts", LOG.label, [Outcome(1, 1)], T0, 0.0)
    topics.publish(db, "alerts", [notification(2), notification(1), notification(3, "new")])
    assert [told.message for told in newest(db, "alerts", 10)] == ["hot", "hot", "new"]
    assert tally(db, "alerts", LOG.label) == (2, 1, 0)
    assert tally(db, "alerts", MQTT.label) == (3, 0, 0)


def test_the_history_is_bounded_and_what_was_still_owed_is_counted_as_failed(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "HISTORY_MAX", 10)
    topics = Topics(config(LOG))
    for number in range(0, 25, 5):
        topics.publish(db, "alerts", [notification(each, str(each)) for each in range(number, number + 5)])
    assert [told.message for told in newest(db, "alerts", 100)] == [str(number) for number in range(15, 25)]
    assert tally(db, "alerts", LOG.label) == (10, 0, 15)


def test_a_subscription_that_was_removed_is_owed_nothing_any_more(db: sqlite3.Connection) -> None:
    Topics(config(LOG, MQTT)).publish(db, "alerts", [notification(1)])
    Topics(config(LOG)).open(db)
    assert tally(db, "alerts", LOG.label) == (1, 0, 0)
    assert tally(db, "alerts", MQTT.label) == (0, 0, 1)
    assert [each.error for each in failures(db, "alerts", 10)] == ["no longer subscribed"]


# When it is tried again, and when no more


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_ten_minutes_and_are_spread_over_half_of_that(failed: int, random: float) -> None:
    ceiling = min(600_000, 500 * 2 ** min(failed - 1, 30))
    assert ceiling / 2 <= retry_ms(failed, random) <= ceiling


def test_a_failed_attempt_is_due_again_after_its_wait(db: sqlite3.Connection) -> None:
    Topics(config(LOG)).publish(db, "alerts", [notification(1), notification(2)])
    assert [each.number for each in due(db, "alerts", LOG.label, T0, 10)[0]] == [1, 2]
    settle(db, "alerts", LOG.label, [Outcome(1, 1, "refused")], T0, 0.0)
    assert [each.number for each in due(db, "alerts", LOG.label, T0, 10)[0]] == [2]
    settle(db, "alerts", LOG.label, [Outcome(2, 1)], T0, 0.0)
    assert due(db, "alerts", LOG.label, T0, 10) == ([], 250)
    assert [(each.number, each.attempts) for each in due(db, "alerts", LOG.label, T0 + 250, 10)[0]] == [(1, 1)]
    settle(db, "alerts", LOG.label, [Outcome(1, 2)], T0 + 250, 0.0)
    assert due(db, "alerts", LOG.label, T0 + 250, 10) == ([], None)
    assert tally(db, "alerts", LOG.label) == (0, 2, 0)


def test_a_clock_that_jumps_back_does_not_hold_notifications_for_longer_than_a_back_off(
    db: sqlite3.Connection,
) -> None:
    Topics(config(LOG)).publish(db, "alerts", [notification(1)])
    assert due(db, "alerts", LOG.label, T0 - RETRY_MS_MAX - 1, 10)[0]
    assert due(db, "alerts", LOG.label, T0 - RETRY_MS_MAX, 10) == ([], RETRY_MS_MAX)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(1, ATTEMPTS_MAX, "HTTP status 500"), "HTTP status 500"),
        (Outcome(1, 1, "HTTP status 404", True), "404"),
    ],
)
def test_the_last_attempt_fails_for_good_and_stays_visible(
    db: sqlite3.Connection, outcome: Outcome, reason: str
) -> None:
    Topics(config(LOG)).publish(db, "alerts", [notification(1), notification(2)])
    settle(db, "alerts", LOG.label, [outcome], T0, 0.0)
    assert tally(db, "alerts", LOG.label) == (1, 0, 1)
    (failed,) = failures(db, "alerts", 10)
    assert (failed.message_id, failed.attempts) == (notification(1).message_id, outcome.attempts)
    assert reason in failed.error


def test_a_dead_subscription_is_given_up_for_what_is_over_six_hours_old(db: sqlite3.Connection) -> None:
    old, young = [notification(1), notification(2)], notification(3, at_ms=T0 + 5_000)
    Topics(config(LOG, MQTT)).publish(db, "alerts", [*old, young])
    settle(db, "alerts", LOG.label, [Outcome(1, 9, "connection refused")], T0 + AGE_MAX_MS + 1, 0.0)
    assert tally(db, "alerts", LOG.label) == (1, 0, 2)
    assert {each.error for each in failures(db, "alerts", 9)} == {"given up after 6 hours: connection refused"}
    assert tally(db, "alerts", MQTT.label) == (3, 0, 0)


# Configuration


@pytest.mark.parametrize(
    ("subscription", "words"),
    [
        ({}, "write one of"),
        ({"mqtt": "a", "log": True}, "write one of"),
        ({"log": False}, "True"),
        ({"mqtt": "a/#"}, "wildcard"),
        ({"webhook": "ftp://host/x"}, "no webhook"),
        ({"webhook": "http:///x"}, "no webhook"),
        ({"webhook": "http://host:99999/x"}, "ort"),
        ({"webhook": "http://host/a b"}, "percent-encoded"),
        ({"webhook": "http://host/x\r\nEvil: 1"}, "percent-encoded"),
        ({"webhook": "http://me:secret@host/x"}, "must not hold"),
    ],
)
def test_a_subscription_that_cannot_work_is_refused_with_the_configuration(
    subscription: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Subscription.model_validate(subscription)


def test_only_the_local_backend_is_accepted_and_a_subscription_only_once() -> None:
    with pytest.raises(ValueError, match="not supported yet"):
        TargetsConfig(backend="aws")
    with pytest.raises(ValueError, match="subscribed twice"):
        config(LOG, MQTT, Subscription(log=True))


# Sending


class Receiver:
    """A webhook on a real socket that answers with the given statuses, then 200 for ever."""

    def __init__(self, *statuses: int) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        script = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - `self` is the receiver
                body = handler.rfile.read(int(handler.headers["content-length"]))
                self.requests.append(({k.lower(): v for k, v in handler.headers.items()}, body))
                handler.send_response(script.pop(0) if script else 200)
                handler.send_header("location", "/elsewhere")
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?key=1"

    def messages(self) -> list[str]:
        return [orjson.loads(body)["Message"] for _, body in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*statuses: int) -> Receiver:
        made.append(Receiver(*statuses))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Running:
    """A store with a notifier to work on it; its clock starts at T0."""

    def __init__(
        self,
        store: Store,
        topics: dict[str, TopicConfig],
        publish: Callable[[str, bytes], None],
        seconds: float,
    ) -> None:
        self.store, self.counters = store, Counters()
        self._topics = Topics(topics)
        time = asyncio.get_running_loop().time
        started = time()
        self.notifier = Notifier(
            store,
            topics,
            lambda: T0 + round((time() - started) * 1000),
            publish,
            self.counters,
            answer_seconds=seconds,
        )

    async def publish(self, *notifications: Notification) -> None:
        await self.store.run(lambda connection: self._topics.publish(connection, "alerts", notifications))
        self.notifier.wake()

    async def tally(self, subscription: Subscription) -> tuple[int, int, int]:
        return await self.store.run(lambda connection: tally(connection, "alerts", subscription.label))

    async def until(self, subscription: Subscription, wanted: tuple[int, int, int]) -> None:
        for _ in range(1_000):
            if await self.tally(subscription) == wanted:
                return
            await asyncio.sleep(0.01)
        assert await self.tally(subscription) == wanted


@asynccontextmanager
async def running(
    directory: Path,
    *subscriptions: Subscription,
    publish: Callable[[str, bytes], None] = lambda _topic, _payload: None,
    seconds: float = 5.0,
) -> AsyncIterator[Running]:
    topics = config(*subscriptions)
    store = Store(directory / "cloud.db", SCHEMA)
    work = Running(store, topics, publish, seconds)
    task = asyncio.create_task(work.notifier.run())
    yield work
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await store.close()


async def test_a_webhook_gets_what_sns_would_post(tmp_path: Path, receiver: Callable[..., Receiver]) -> None:
    hooked = receiver()
    async with running(tmp_path, hook(hooked.url)) as work:
        await work.publish(Notification(notification(1).message_id, "95 °F".encode(), T0, subject="Press 3"))
        await work.until(hook(hooked.url), (0, 1, 0))
    ((headers, body),) = hooked.requests
    assert orjson.loads(body) == {
        "Type": "Notification",
        "MessageId": notification(1).message_id,
        "TopicArn": "arn:aws:sns:local:000000000000:alerts",
        "Subject": "Press 3",
        "Message": "95 °F",
        "Timestamp": "2024-12-31T23:59:59.655Z",
    }
    assert headers["x-amz-sns-message-type"] == "Notification"
    assert headers["x-amz-sns-message-id"] == notification(1).message_id
    assert headers["x-amz-sns-topic-arn"] == "arn:aws:sns:local:000000000000:alerts"


async def test_a_webhook_that_fails_for_a_while_gets_every_notification_in_the_end(
    tmp_path: Path, receiver: Callable[..., Receiver]
) -> None:
    hooked = receiver(503, 429)
    async with running(tmp_path, hook(hooked.url)) as work:
        await work.publish(notification(1, "a"), notification(2, "b"))
        await work.until(hook(hooked.url), (0, 2, 0))
        assert work.counters.value("alert_attempts_failed_total") == 2
    assert len(hooked.requests) == 4
    assert sorted(hooked.messages()[-2:]) == ["a", "b"]


@pytest.mark.parametrize("status", [400, 404, 301])
async def test_a_webhook_that_refuses_for_good_is_not_asked_again(
    tmp_path: Path, receiver: Callable[..., Receiver], status: int
) -> None:
    hooked = receiver(status)
    async with running(tmp_path, hook(hooked.url)) as work:
        await work.publish(notification(1, "a"), notification(2, "b"))
        await work.until(hook(hooked.url), (0, 1, 1))
        (failed,) = await work.store.run(lambda connection: failures(connection, "alerts", 10))
    assert failed.error == f"HTTP status {status}"
    assert hooked.messages() == ["a", "b"]


async def test_a_webhook_that_never_answers_holds_up_nobody_else(
    tmp_path: Path, receiver: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hooked, published = receiver(), []

    def publish(topic: str, payload: bytes) -> None:
        published.append((topic, payload))

    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = hook(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        others = (hook(hooked.url), MQTT, LOG)
        async with running(tmp_path, dead, *others, publish=publish, seconds=3_600) as work:
            await work.publish(*(notification(number, f"m{number}") for number in range(40)))
            for subscription in others:
                await work.until(subscription, (0, 40, 0))
            asked, _ = await asyncio.to_thread(silent.accept)
            with asked:  # it is still being waited for
                assert await work.tally(dead) == (40, 0, 0)
                assert work.counters.value("alert_attempts_failed_total") == 0
    assert hooked.messages() == [f"m{number}" for number in range(40)]
    assert published == [("alerts/shift-lead", b"m%d" % number) for number in range(40)]
    assert sum(record.message == "alert" for record in caplog.records) == 40


async def test_an_endpoint_that_does_not_answer_in_time_is_an_attempt_that_failed(tmp_path: Path) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not reader.at_eof():  # each byte comes in time for the socket, the status line never
                writer.write(b"H")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(), 0.05)
        writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    slow = hook(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    async with server, running(tmp_path, slow, seconds=0.3) as work:
        await work.publish(notification(1))
        for _ in range(1_000):
            if work.counters.value("alert_attempts_failed_total") >= 2:
                break
            await asyncio.sleep(0.01)
        ((error,),) = await work.store.run(lambda c: c.execute("SELECT error FROM alert_deliveries").fetchall())
    assert error == "no answer within 0.3 s"


async def test_what_is_owed_outlives_a_restart(tmp_path: Path, receiver: Callable[..., Receiver]) -> None:
    hooked = receiver()
    store = Store(tmp_path / "cloud.db", SCHEMA)
    await store.run(lambda c: Topics(config(hook(hooked.url))).publish(c, "alerts", [notification(1, "kept")]))
    await store.close()
    async with running(tmp_path, hook(hooked.url)) as work:
        await work.until(hook(hooked.url), (0, 1, 0))
    assert hooked.messages() == ["kept"]


async def test_a_broker_that_cannot_take_a_notification_gets_it_later(tmp_path: Path) -> None:
    published: list[bytes] = []
    refusals = [TidegateError("the broker is full")]

    def publish(_topic: str, payload: bytes) -> None:
        if refusals:
            raise refusals.pop()
        published.append(payload)

    async with running(tmp_path, MQTT, publish=publish) as work:
        await work.publish(notification(1, "once"))
        await work.until(MQTT, (0, 1, 0))
    assert published == [b"once"]
