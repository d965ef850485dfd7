"""A worker's life: load the handler, take events from the channel one by one, answer each as soon as it has ended.

    from loop import serve
    serve(channel)          # returns when the daemon closes the channel

One thread reads, works and answers, so the first event without an answer is the one that the handler has in hand.
Threads of the handler's own go on between events: the loop waits in recv(), without the interpreter's lock.

A fork of this process loses the channel at once: it can neither answer in its parent's name nor keep it open.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from collections import deque

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from functions.worker import handler, logs, output, wire
else:
    import handler
    import logs
    import output
    import wire

READ_BYTES = 64 << 10  # more would be mapped and unmapped with every read


class Connection:
    """The worker's end of the channel. Any thread may send; signal handlers may interrupt, raise and send too."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(True)
        channel.set_inheritable(False)
        self._channel = channel
        self._splitter = wire.Splitter()
        self._lock = threading.RLock()
        self._waiting: deque[tuple[memoryview, list[int]]] = deque()  # what is sent, and how much of it has been
        self._sending = False
        self.ours = True
        os.register_at_fork(after_in_child=self.lose)

    def send(self, frame: bytes) -> bool:
        """Send a frame; whether the channel is ours. Raises OSError when the daemon has gone."""
        with self._lock:
            if not self.ours:
                return False
            self._waiting.append((memoryview(frame), []))
            if not self._sending:  # else this is a signal handler, and the send that it interrupted goes on with it
                self._drain()
            return True

    def _drain(self) -> None:
        waiting = self._waiting
        self._sending = True
        try:
            while waiting:
                frame, sent = waiting[0]
                if (done := sum(sent)) < len(frame):
                    # Within extend() no signal handler runs between send() and the note of what it sent, so an
                    # exception from one, an alarm's for example, never leaves half of a frame.
                    sent.extend(map(self._channel.send, (frame[done:],)))
                else:
                    waiting.popleft()
        finally:
            self._sending = False

    def events(self) -> Iterator[tuple[bytes, bytes, bytes, bytes, bytes]]:
        """The events, until the daemon closes the channel."""
        receive, feed = self._channel.recv, self._splitter.feed
        while self.ours and (data := receive(READ_BYTES)):
            for kind, body in feed(data):
                if kind == wire.EVENT:
                    yield wire.split_event(body)

    def lose(self) -> None:
        """Forget the channel, because the daemon has gone or this process is a fork; output goes to the pipes now."""
        self._lock = threading.RLock()  # at a fork, another thread may have held it
        self._waiting.clear()
        self.ours = False
        self._channel.close()


def serve(channel: socket.socket) -> None:
    """Be a worker on this connected socket until it ends. Raises SystemExit when the handler, or its loading, does."""
    connection = Connection(channel)
    streams = output.Output(connection.send)
    logs.install()
    _step_aside()
    try:
        calls = _load(connection, streams)
        gc.freeze()  # what is loaded stays: to walk the 60,000 objects of boto3 would hold up an event for 45 ms
        for event in connection.events():
            kind, answer = calls(*event)
            streams.settle()
            if not connection.send(wire.answer(kind, event[0], answer)):
                sys.exit()  # a fork of the handler's that came back: the event is its parent's
        connection.lose()
    except BaseException as error:  # noqa: BLE001 - all of them end the worker, and the daemon is told which
        _end(connection, streams, error)


def _load(connection: Connection, streams: output.Output) -> handler.Calls:
    try:
        function = handler.load(os.environ.get("_HANDLER", ""))
    except Exception as error:  # noqa: BLE001 - whatever a module raises
        document = handler.failure(error)
        streams.settle()
        connection.send(wire.frame(wire.INIT_ERROR, document))
        sys.exit(1)
    streams.settle()
    connection.send(wire.frame(wire.READY))
    return handler.Calls(function, binary=os.environ.get("TIDEGATE_ENCODING") == "binary")


def _end(connection: Connection, streams: output.Output, error: BaseException) -> None:
    """Tell the daemon what ends this process, and end it as Python would."""
    if isinstance(error, OSError):  # of the channel: what a handler raises comes no further than its answer
        connection.lose()
        sys.exit()
    if not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
    status = error.code if isinstance(error, SystemExit) else 1
    reason = f"SystemExit: {status}" if isinstance(error, SystemExit) else type(error).__name__
    streams.settle()
    connection.send(wire.frame(wire.FATAL, reason.encode("utf-8", "backslashreplace")))
    connection.lose()  # what Python says of its end goes by the pipe: the daemon may have closed the channel
    sys.exit(status)


def _step_aside() -> None:
    """Leave the names `handler`, `context` and so on, and the first place on the path, to the code of the function."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name, module in list(sys.modules.items()):
        if name != "__main__" and os.path.dirname(getattr(module, "__file__", None) or "") == here:
            del sys.modules[name]
    code = os.environ.get("LAMBDA_TASK_ROOT", os.getcwd())
    others = [place for place in sys.path if os.path.abspath(place) not in (here, code)]
    sys.path[:] = [code, *others]
