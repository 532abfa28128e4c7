"""Pages that arrive piece by piece, as by a slow line, or in a browser that is busy."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# So that each piece is painted before the next one comes.
_PAUSE_SECONDS = 0.05
_ELEMENT = re.compile(rb"(?=<(?!/))")


@contextmanager
def in_pieces(html: bytes) -> Iterator[str]:
    """A URL that answers with this page, one element after the other."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            head, mark, body = html.partition(b"<body")
            for piece in (head, *_ELEMENT.split(mark + body)):
                self.wfile.write(piece)
                time.sleep(_PAUSE_SECONDS)

        def log_message(self, format: str, *args: object) -> None:
            """Not in the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
