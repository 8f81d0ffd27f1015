"""A real HTTP server on a real socket that answers chat completions as it is told, well or badly."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {"before": "the cup stands left", "interaction": "a hand moves the cup", "change": "the cup stands right",
        "caption": "A hand moves the cup to the right."}  # fmt: skip


class Script:
    """What the server does with each request in turn (the last one for ever): callables of (handler, request body)."""

    def __init__(self, *actions):
        self.actions, self.requests, self.headers, self.paths = list(actions), [], [], []
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
                script.paths.append(self.path)
            with suppress(OSError):  # the client may have left, as it should
                script.next()(self, body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.script = script
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


def prompt_of(body) -> str:
    """The words of a request, without its pictures."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def send(handler, status, value, headers=()):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    for name, content in headers:
        handler.send_header(name, content)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def says(text, **message):
    """Answer with these words; `text` may be a function of the request."""

    def act(handler, body):
        content = text(body) if callable(text) else text
        choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
        send(handler, 200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 7}})

    return act


def sends(status, value=None, **headers):
    """Answer with a status, JSON or bytes, and headers (`Retry_After="1"`)."""
    pairs = [(name.replace("_", "-"), content) for name, content in headers.items()]
    answer = {"error": {"message": "no"}} if value is None else value
    return lambda handler, body: send(handler, status, answer, pairs)


def fails(status: int, message: str = "no", **headers):
    """An error status with a message."""
    return sends(status, {"error": {"message": message}}, **headers)


def never(handler, body):
    """Say nothing until the test is over."""
    handler.server.script.released.wait(60)


def drips(handler, body):
    """Send a byte now and then, for ever: each arrives in time, the answer never does."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.script.released.is_set():
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)


def drips_headers(handler, body):
    """The same before the headers have ended."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.script.released.is_set():
        handler.wfile.write(b"a")
        handler.wfile.flush()
        time.sleep(0.02)


def drops(handler, body):
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def breaks_off(handler, body):
    """Announce an answer and close half way."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True
