"""Serves the built book on this machine only: `make serve`, or `make serve PORT=8001`.

It knows nothing of how the book is built. With `live` (used by `make watch`) a page reloads after every build.
"""

import argparse
import errno
import gzip
import http.server
import sys
import time
import urllib.parse
from functools import lru_cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
# Text becomes a third to a fifth when compressed, as on every public server.
TEXT = {".html", ".css", ".js", ".json", ".svg", ".txt"}
# After a build the page reloads; after one that failed it stays, and a bar at its foot says why.
RELOAD = b"""<script>(function () {
  var first;
  function show(problem) {
    var bar = document.getElementById("watch-problem") || document.createElement("pre");
    bar.id = "watch-problem";
    bar.setAttribute("role", "status");
    bar.style.cssText = "position:fixed;z-index:9999;bottom:0;left:0;right:0;max-height:40vh;overflow:auto;margin:0;" +
      "padding:.6rem 1rem;background:#5c0011;color:#fff;font-size:.8rem;white-space:pre-wrap";
    bar.textContent = problem;
    document.body.appendChild(bar);
  }
  setInterval(function () {
    fetch("/built.json", {cache: "no-store"}).then(function (r) { return r.json(); }).then(function (now) {
      if (first && now.at !== first && !now.problem) location.reload();
      if (now.problem) show(now.problem);
      first = first || now.at;
    }).catch(function () {});
  }, 300);
})()</script>"""


@lru_cache(maxsize=256)
def compressed(path: Path, changed: int) -> bytes:
    """The gzipped bytes of a file; `changed` is its time stamp, so that a new build is read anew."""
    return gzip.compress(path.read_bytes(), compresslevel=9)


class Server(http.server.ThreadingHTTPServer):
    """Says nothing when a reader leaves a page before it has come."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of the site; quiet; never cached, because the next build may have changed them."""

    live = False

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def do_GET(self) -> None:
        if self.live and self.path.startswith("/built.json"):
            page = urllib.parse.urlsplit(self.headers.get("Referer", "")).path
            self.server.shown[page] = time.monotonic()  # type: ignore[attr-defined]
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() and self.path.split("?")[0].endswith("/") else path
        zipped = path.suffix in TEXT and "gzip" in self.headers.get("Accept-Encoding", "")
        reloads = self.live and path.suffix == ".html"
        status = 200
        if not path.exists() and Path(self.translate_path("/404.html")).is_file():
            # As GitHub Pages does: the book's own page for what is not there, at any depth.
            path, status, zipped = Path(self.translate_path("/404.html")), 404, False
        elif not path.is_file() or not (zipped or reloads):
            super().do_GET()
            return
        body = compressed(path, path.stat().st_mtime_ns) if zipped and not reloads else path.read_bytes()
        if reloads:
            body = body.replace(b"</body>", RELOAD + b"</body>", 1)
            body = gzip.compress(body) if zipped else body
        self.send_response(status)
        self.send_header("Content-Type", self.guess_type(path) + ("; charset=utf-8" if path.suffix == ".html" else ""))
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def open_server(port: int, site: Path = SITE, live: bool = False) -> http.server.ThreadingHTTPServer:
    """Returns a server for `site` on 127.0.0.1:`port`, not yet running (port 0: any free one).

    Raises:
        SystemExit: "the book is not built ..." or "port 8000 is in use ...", each with what to do.
    """
    if not (site / "index.html").is_file():
        sys.exit("serve: the book is not built yet (no _build/html/index.html); run `make book` first.")
    handler = partial(type("SiteHandler", (Handler,), {"live": live}), directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        server.shown = {}  # type: ignore[attr-defined]  # page -> when a browser that shows it last asked for changes
        return server
    except PermissionError:
        sys.exit(f"serve: port {port} needs special rights; choose one above 1023: make serve PORT=8001")
    except OverflowError:
        sys.exit(f"serve: a port is a number from 1 to 65535, not {port}; for example: make serve PORT=8001")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(f"serve: port {port} is in use by another program; choose another one: make serve PORT={port + 1}")


def port_number(text: str) -> int:
    """Reads a port from the command line; the message names what came and what to do."""
    if not (text.isdigit() and 0 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {text!r}; say: make serve PORT=8001")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=port_number, default=8000)
    server = open_server(parser.parse_args().port)
    print(f"serve: the book is at http://127.0.0.1:{server.server_address[1]} (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nserve: ended")
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
