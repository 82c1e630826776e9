"""The browser that `make test-browser` looks at pages with."""

import shutil

CHROME_ON_A_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ["chromium", "chromium-browser", "google-chrome", CHROME_ON_A_MAC]


def find_browser():
    """Return the path of an installed browser, or None."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path:
            return path
    return None


def record_strangers(page, address):
    """Return a list to which the page adds each URL that it requests from another server."""
    strangers = []

    def note(request):
        if not request.url.startswith(address):
            strangers.append(request.url)

    page.on("request", note)
    return strangers
