"""A real HTTP server that answers chat completions as it is told, well or badly."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {"before": "the cup stands left", "interaction": "a hand moves the cup", "change": "the cup stands right",
        "caption": "A hand moves the cup to the right."}  # fmt: skip


class Script:
    """What is done with each request in turn (the last one for ever), and what was asked."""

    def __init__(self, *actions):
        self.actions, self.requests, self.headers = list(actions), [], []
        self.lock, self.released = threading.Lock(), threading.Event()

    def next(self):
        with self.lock:
            return self.actions.pop(0) if len(self.actions) > 1 else self.actions[0]


@contextmanager
def serving(*actions):
    """(url, script) of a running server."""
    script = Script(*actions)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.requests.append(body)
                script.headers.append(dict(self.headers))
            with suppress(OSError):  # the client may have left, as it should
                script.next()(self, script)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", script
    finally:
        script.released.set()
        server.shutdown()
        server.server_close()


def serving_caption():
    """A server that always answers well."""
    return serving(says(json.dumps(GOOD)))


def _send(handler, status, data: bytes, headers=()):
    handler.send_response(status)
    for name, content in headers:
        handler.send_header(name, content)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def says(text: str):
    """A completion with these words."""
    answer = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return lambda handler, script: _send(handler, 200, json.dumps(answer).encode())


def fails(status: int, message: str = "no", **headers):
    """An error status."""
    data = json.dumps({"error": {"message": message}}).encode()
    pairs = [(name.replace("_", "-"), content) for name, content in headers.items()]
    return lambda handler, script: _send(handler, status, data, pairs)


def raw(data: bytes):
    """Status 200 with any body."""
    return lambda handler, script: _send(handler, 200, data)


def hangs_up(handler, script):
    """Close without an answer."""
    handler.close_connection = True
    handler.connection.close()


def drips(handler, script):
    """A byte now and then, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not script.released.is_set():
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)
