"""MQTT 3.1.1 and 5 on one listener, in three layers.

1. Packets: `v5` (the mqtt5 library) and `v311` (our codec) turn bytes into the same packet classes and back.
2. Decisions, without I/O: `connection` (one network connection), `session` (what is owed to one client), `router`
   (who gets which message), `broker` (all of them). Bytes and the time come in, bytes and deadlines go out.
3. The shell: `listener` (asyncio protocols under the broker) and `client` (the uplink's side of a connection).

What this package will not do: store a message (the `accept` function given to the broker does, and settles the
receipt), decide who may do what (`access`, given too), read a clock.
"""
