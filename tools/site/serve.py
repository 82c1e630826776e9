"""Show the site on the loopback interface until Ctrl-C. usage: serve.py [PORT]"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / ".course/site-pages"


def server(port):
    """Return a server of the site at 127.0.0.1; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=PAGES))


def main():
    port = sys.argv[1] if sys.argv[1:] else "8000"
    try:
        site = server(int(port))
    except (OSError, OverflowError, ValueError):
        sys.exit(f"Port {port} of 127.0.0.1 is not free: name another, as in make site-serve SITE_PORT=8001")
    print(f"The site is at http://127.0.0.1:{port}/ until Ctrl-C.", flush=True)
    try:
        site.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
