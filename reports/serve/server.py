"""The server: what it answers, and to whom.

Of this machine alone: it listens on 127.0.0.1, and takes no request that was meant for another
host, as pages of others send by a name that they let point here (DNS rebinding). It answers GET and
HEAD, and shows files that it has found itself, never a path that it was given.
"""

import os
import shutil
import socketserver
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

from reports.serve.entries import FILES, KINDS, Entry
from reports.serve.outputs import Outputs
from reports.serve.pages import Query, comparison, listing, script, style
from reports.serve.watch import Watch

HOSTS = ("127.0.0.1", "localhost")
"""Names that requests may ask for."""
OWN_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FILES_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-downloads"
)
"""Pages of studies hold their own styles and scripts, which get nothing from here."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_GIVEN = 1000
"""Parts of a query."""
LONGEST_WAIT_S = 30.0
"""For a request that has begun."""


class Site(ThreadingHTTPServer):
    """The pages of a folder, on a port of this machine; 0 takes a free one."""

    daemon_threads = True

    def __init__(self, folder: Path, watch: Watch, port: int) -> None:
        self.outputs, self.watch = Outputs(folder), watch
        super().__init__((HOSTS[0], port), Handler)

    def server_bind(self) -> None:
        """Without the question what this host is called, which may go to a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOSTS[0], self.server_address[1]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{HOSTS[0]}:{self.server_port}/"

    def entries(self) -> list[Entry]:
        """All there are, with what runs."""
        return self.outputs.entries(self.watch.look())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has left is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Site
    server_version, sys_version = "isoparam", ""
    timeout = LONGEST_WAIT_S
    policy = OWN_POLICY

    def do_GET(self) -> None:
        if not self._is_meant():
            self._say(HTTPStatus.FORBIDDEN, f"the Host must be {' or '.join(HOSTS)}")
            return
        try:
            address = urlsplit(self.path)
            given = parse_qs(address.query, errors="surrogateescape", max_num_fields=MOST_GIVEN)
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, "this address cannot be read")
            return
        if address.path in PAGES:
            kind, make = PAGES[address.path]
            self._send(HTTPStatus.OK, kind, make(self.server, given))
        elif (file := self._file(address.path)) is not None:
            self._send_file(file)
        else:
            self._say(HTTPStatus.NOT_FOUND, "there is no such page")

    do_HEAD = do_GET

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # of any other method
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self.close_connection = True
        text = "this page is only read: GET and HEAD"
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, text, Allow="GET, HEAD")

    def _is_meant(self) -> bool:
        """Whether the request asks for this machine, by any port: another may lead here."""
        hosts = self.headers.get_all("Host") or []
        names = [host.rpartition(":")[0] if ":" in host else host for host in hosts]
        return len(names) == 1 and names[0].lower() in HOSTS

    def _file(self, path: str) -> Path | None:
        """A file of an entry, found among those there are."""
        if not path.startswith(FILES):
            return None
        *parts, file = (
            os.fsdecode(unquote_to_bytes(part)) for part in path.removeprefix(FILES).split("/")
        )
        named = {entry.parts: entry for entry in self.server.outputs.entries()}
        entry = named.get(tuple(parts))
        return None if entry is None else entry.files.get(file)

    def _send_file(self, path: Path) -> None:
        self.policy = FILES_POLICY
        try:
            file = path.open("rb")
        except OSError as error:
            self._say(HTTPStatus.NOT_FOUND, f"it cannot be read: {error.strerror}")
            return
        with file:
            self._head(HTTPStatus.OK, KINDS[path.suffix], os.fstat(file.fileno()).st_size)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def _say(self, status: HTTPStatus, text: str, **headers: str) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{text}\n", **headers)

    def _send(self, status: HTTPStatus, kind: str, text: str, **headers: str) -> None:
        content = text.encode("utf-8", "replace")  # names of files may be no text
        self._head(status, kind, len(content), **headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str, length: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in {**HEADERS, "Content-Security-Policy": self.policy}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: the one line on the terminal is the address."""


Given = dict[str, list[str]]


def _list(site: Site, given: Given) -> str:
    entries = site.entries()
    return listing(entries, Query.of(given), site.outputs.left_out, site.watch.trouble)


def _compare(site: Site, given: Given) -> str:
    entries = {entry.name: entry for entry in site.entries()}
    return comparison(
        [entries[name] for name in dict.fromkeys(given.get("of", ())) if name in entries]
    )


HTML = "text/html; charset=utf-8"
PAGES: dict[str, tuple[str, Callable[[Site, Given], str]]] = {
    "/": (HTML, _list),
    "/compare": (HTML, _compare),
    "/style.css": ("text/css; charset=utf-8", lambda *_: style()),
    "/script.js": ("text/javascript; charset=utf-8", lambda site, _: script(site.watch.every_s)),
}
"""What there is besides files, by path."""
