"""TLS in front of a server that has none: a proxy, and certificates that are made on the spot."""

import select
import socket
import ssl
import subprocess
import threading
from contextlib import suppress


def make_certificate(path, name="localhost", address="127.0.0.1"):
    """Make a certificate that vouches for itself; its key is in the same file."""
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:{address}"]
    command += ["-keyout", path, "-out", path.with_suffix(".crt")]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a") as file:
        file.write(path.with_suffix(".crt").read_text())


class TlsProxy:
    """A port of 127.0.0.1 that speaks TLS and passes everything on to another port."""

    def __init__(self, target, certificate):
        self.target = target
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.handshakes = 0

    def __enter__(self):
        threading.Thread(target=self.listen, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def listen(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        """Agree on a key with a client, and pass on both ways until one side closes.

        One thread does both: Python's TLS sockets aren't made for two.
        """
        with suppress(OSError), client:
            encrypted = self.context.wrap_socket(client, server_side=True)
            self.handshakes += 1
            with encrypted, socket.create_connection(("127.0.0.1", self.target)) as plain:
                others = {encrypted: plain, plain: encrypted}
                while all(pass_on(source, others[source]) for source in wait_for(encrypted, plain)):
                    pass


def wait_for(encrypted, plain):
    """Return those of two sockets that have something to read, as soon as one has."""
    if encrypted.pending():
        return [encrypted]
    readable, _, _ = select.select([encrypted, plain], [], [])
    return readable


def pass_on(source, target):
    """Pass on what a socket has received; return whether it is still open."""
    data = source.recv(65536)
    target.sendall(data)
    return bool(data)
