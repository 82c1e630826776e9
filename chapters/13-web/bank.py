"""A pretend bank: its web API answers as slowly and as badly as you tell it to."""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

URL = os.environ.get("BANK_URL", "http://127.0.0.1:8099")
RATES = {"GBP": 0.87, "JPY": 181.4, "USD": 1.16}


class Bank(ThreadingHTTPServer):
    """A bank that listens at URL until its process ends."""

    failures = 0  # answer 503 this many times
    retry_after = None  # with a 503, ask the client to wait this many seconds
    seconds = 0  # think this long before each answer
    asked = 0  # how often it was asked
    connections = 0  # how often somebody connected to it

    def __init__(self):
        url = urlsplit(URL)
        try:
            super().__init__((url.hostname, url.port), Answer)
        except OSError:
            raise OSError(f"{URL} is taken: is there a bank in another prompt?") from None
        self.thread = Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def handle_error(self, *_):
        """Say nothing where a client no longer waits: the prompt is yours."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a connection may ask again
    wbufsize = -1  # send headers and body at once, or the body waits 40 ms

    def setup(self):
        super().setup()
        self.server.connections += 1

    def do_GET(self):
        bank = self.server
        bank.asked += 1
        time.sleep(bank.seconds)
        currency = self.path.removeprefix("/rates/")
        if bank.failures:
            bank.failures -= 1
            self.answer(503, {})
        elif currency in RATES:
            self.answer(200, {"rate": RATES[currency]})
        else:
            self.answer(404, {})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", len(body))
        if status == 503 and self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing of each request."""


if __name__ == "__main__":  # in a container
    Bank().thread.join()
