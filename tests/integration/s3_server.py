"""A server of S3 in a process of its own: moto's, with a door at which requests can be turned away or held up.

    python -m tests.integration.s3_server PORT_FILE ORDERS_FILE

Writes its port when it is ready. ORDERS_FILE, looked at before each request, may hold JSON such as `{"busy": 0.3}`, the
share of requests that are answered with 503 SlowDown, `{"away": true}`, by which every one is, `{"slow": 0.1}`,
seconds before each answer, or `{"note": "FILE"}`, to which each request's method and path are added.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Door:
    """Turns requests away as it is told."""

    def __init__(self, inside: Callable[..., Iterable[bytes]], orders: Path) -> None:
        self.inside = inside
        self.orders = orders
        self.draw = random.Random(0)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        try:
            told = json.loads(self.orders.read_text())
        except (OSError, ValueError):
            told = {}
        if note := told.get("note"):
            with Path(note).open("a") as file:
                file.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}\n")
        time.sleep(told.get("slow", 0))
        if told.get("away") or self.draw.random() < told.get("busy", 0):
            # What the client still sends must be read, or the connection is out of step.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [BUSY]
        return self.inside(environ, start)


def main() -> None:
    """Serve until killed."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    port_file, orders = map(Path, sys.argv[1:])
    server = make_server("127.0.0.1", 0, Door(DomainDispatcherApplication(create_backend_app), orders), threaded=True)
    port_file.with_suffix(".new").write_text(str(server.port))
    port_file.with_suffix(".new").replace(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
