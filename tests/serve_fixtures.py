"""The server of pages, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reports.serve.server import Site
from reports.serve.watch import Watch


@contextmanager
def served(outputs: Path) -> Iterator[Site]:
    watch = Watch(outputs, None, 0.2)
    site = Site(outputs, watch, 0)
    threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
    yield site
    site.shutdown()
    watch.close()
    site.server_close()
