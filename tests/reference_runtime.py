"""AWS's own Python runtime client, awslambdaric, as on Lambda: a child process, and a Runtime API for it alone."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ARN = "arn:aws:lambda:us-east-1:000000000000:function:press"
SECONDS = 20.0


class ReferenceRuntime:
    """What awslambdaric was given, and what it answered: (kind, payload) with kind "done", "error" or "init_failed"."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, bytes, bytes] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.stdout = b""

    def call(self, request_id: str, payload: bytes, client_context: bytes = b"") -> tuple[str, bytes]:
        """What becomes of one event."""
        self.events.put((request_id, payload, client_context))
        return self.answers.get(timeout=SECONDS)


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    runtime: ReferenceRuntime

    def do_GET(self) -> None:
        event = self.runtime.events.get()
        if event is None:
            self.close_connection = True
            return
        request_id, payload, client_context = event
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 3000))
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793")
        if client_context:
            self.send_header("Lambda-Runtime-Client-Context", client_context.decode())
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = {"response": "done", "error": "error"}[self.path.rpartition("/")[2]]
        self.runtime.answers.put(("init_failed" if "/init/" in self.path else kind, body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def reference_runtime(code: Path, variables: Mapping[str, str]) -> Iterator[ReferenceRuntime]:
    """awslambdaric over the code in a directory, with a worker's environment. `stdout` is complete afterwards."""
    runtime = ReferenceRuntime()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (_Api,), {"runtime": runtime}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    environment = {**variables, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}"}
    command = [sys.executable, "-B", "-m", "awslambdaric", variables["_HANDLER"]]
    process = subprocess.Popen(
        command, cwd=code, env={"HOME": os.environ.get("HOME", "/"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield runtime
    finally:
        if runtime.answers.empty() and process.poll() is None:
            process.terminate()
        runtime.events.put(None)
        runtime.stdout = process.communicate()[0]
        server.shutdown()
        thread.join()
        server.server_close()
