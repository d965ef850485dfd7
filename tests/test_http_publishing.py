"""Publishing over HTTP: a QoS 1 message is answered when it is kept, and not before."""

import asyncio
from pathlib import Path

import pytest
from mqtt5 import SubscribePacket

from core.http.messages import HttpError
from core.http.publishing import Publisher
from core.message import Message, Origin
from core.mqtt import retained as retained_module
from core.receipts import STORED, dropped, rejected
from tests.durable import Durable
from tests.mqtt_peers import Bench, until, wanted

ORIGIN = Origin("operator", "192.0.2.7", "http")


def message(qos: int = 1, *, retain: bool = False) -> Message:
    return Message("plant/a", b"21.5", qos, retain, received_at=1)


async def test_a_message_of_qos_1_waits_for_its_receipt() -> None:
    bench = Bench(settle=False)
    publishing = asyncio.ensure_future(Publisher(bench.broker).publish(message(), ORIGIN))
    await until(lambda: len(bench.batches) == 1)
    await asyncio.sleep(0)
    assert not publishing.done()
    (batch,) = bench.batches
    assert (batch.messages, batch.origin, batch.client_id) == ([message()], ORIGIN, "")
    batch.receipt.settle(STORED)
    await publishing


async def test_a_message_of_qos_0_does_not_wait() -> None:
    bench = Bench(settle=False)
    await Publisher(bench.broker).publish(message(0), ORIGIN)
    assert len(bench.batches) == 1


@pytest.mark.parametrize(
    ("code", "status", "name"), [(0x97, 429, "ThrottlingException"), (0x83, 500, "InternalFailureException")]
)
async def test_a_message_that_is_not_kept_is_refused_with_the_reason(code: int, status: int, name: str) -> None:
    bench = Bench(settle=False)
    for exceptional in (False, True):
        publishing = asyncio.ensure_future(Publisher(bench.broker).publish(message(), ORIGIN))
        await until(lambda: bool(bench.batches))
        outcome = rejected("lane full", code)
        receipt = bench.batches.pop().receipt
        receipt.settle(STORED, {0: outcome}) if exceptional else receipt.settle(outcome)
        with pytest.raises(HttpError, match="lane full") as caught:
            await publishing
        assert (caught.value.status, caught.value.code) == (status, name)


async def test_what_a_policy_drops_on_purpose_is_no_error() -> None:
    bench = Bench(settle=False)
    publishing = asyncio.ensure_future(Publisher(bench.broker).publish(message(), ORIGIN))
    await until(lambda: bool(bench.batches))
    bench.batches[0].receipt.settle(dropped("lane full"))
    await publishing


async def test_a_receipt_that_is_settled_after_the_client_went_away_hurts_nobody() -> None:
    bench = Bench(settle=False)
    publishing = asyncio.ensure_future(Publisher(bench.broker).publish(message(), ORIGIN))
    await until(lambda: bool(bench.batches))
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    bench.batches[0].receipt.settle(STORED)


async def test_subscribers_hear_it_at_once() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("listener")
    peer.subscribe("plant/#")
    publishing = asyncio.ensure_future(Publisher(bench.broker).publish(message(), ORIGIN))
    await until(lambda: bool(bench.batches))
    assert peer.payloads() == [b"21.5"]
    bench.batches[0].receipt.settle(STORED)
    await publishing


async def test_it_waits_until_what_a_client_that_is_away_is_owed_is_on_disk(tmp_path: Path) -> None:
    durable = Durable(tmp_path / "lives")
    (tmp_path / "lives" / "0").mkdir(parents=True)
    await durable.start()
    peer = await durable.arrive("sleeper")
    await durable.ask(peer, SubscribePacket(1, [wanted("plant/#")]))
    peer.cut()
    await durable.sync()
    durable.disk.hold()
    publishing = asyncio.ensure_future(Publisher(durable.broker).publish(message(), ORIGIN))
    await until(lambda: durable.disk.outstanding > 0)
    assert not publishing.done()
    await durable.sync()
    await publishing
    await durable.crash()
    assert [packet.payload for packet in await durable.take_all(await durable.arrive("sleeper"))] == [b"21.5"]
    await durable.close()


async def test_a_message_that_cannot_be_retained_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    publisher = Publisher(bench.broker)
    await publisher.publish(message(retain=True), ORIGIN)
    monkeypatch.setattr(retained_module, "RETAINED_MAX", 0)
    other = Message("plant/b", b"1", 1, retain=True, received_at=1)
    with pytest.raises(HttpError) as caught:
        await publisher.publish(other, ORIGIN)
    assert caught.value.status == 429
    assert [each.topic for each in bench.accepted] == ["plant/a"]
