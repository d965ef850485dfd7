"""Sessions as they were on disk: subscriptions in the router again, and everything that was owed in line again."""

from core.mqtt.journal import Row
from core.mqtt.parcels import Parcel
from core.mqtt.records import SessionRecord, Stored, is_owed
from core.mqtt.router import Router
from core.mqtt.session import House, Session, Subscription, packet_id_of


def restore(stored: Stored, house: House, router: Router) -> list[Session]:
    """All sessions, without connections; rows of which nothing is owed any more are given to the journal to delete."""
    sessions = {record.key: _session(record, house) for record in stored.sessions}
    for s in stored.subscriptions:
        session = sessions.get(s.session)
        if session is not None:
            router.subscribe(
                Subscription(session, s.pattern, s.qos, s.no_local, s.retain_as_published, s.identifier)
            )
    states = {record.key: (record.floor, record.done) for record in stored.sessions}
    released = {record.key: set(record.released) for record in stored.sessions}
    for queued in stored.queued:
        row = Row(queued.id)
        row.stored = True
        row.size, row.whole = sum(message.size for message in queued.messages), len(queued.deliveries)
        row.live = 1  # our own, so that it is not over before all of it has been looked at
        parcels: dict[tuple[int, int, bool, str, tuple[int, ...]], Parcel] = {}
        for d in queued.deliveries:
            if d.index >= len(queued.messages) or not is_owed(states.get(d.session), d.number):
                continue
            session = sessions[d.session]
            session.last_number = max(session.last_number, d.number)
            row.live += 1
            if d.number in released[d.session]:
                session.kept[d.number] = row
                session.released[packet_id_of(d.number)] = d.number
                continue
            key = d.index, d.qos, d.retain, d.group, d.ids
            parcel = parcels.get(key)
            if parcel is None:
                message = queued.messages[d.index]
                parcel = parcels[key] = Parcel(message, d.qos, retain=d.retain, ids=d.ids, group=d.group)
            session.restore(d.number, parcel, row)
        house.journal.drop(row)
    return list(sessions.values())


def _session(record: SessionRecord, house: House) -> Session:
    session = Session(record.client_id, record.owner, house)
    session.key = record.key
    session.expiry = session.stored_expiry = record.expiry
    session.away_since = record.away_since
    session.last_number = record.last_number
    session.highest_done = record.done[-1][1] if record.done else 0
    session.received = set(record.received)
    return session
