"""`python -m reports serve`: all studies, tables and laws of `outputs` on one local page.

The page is for this machine alone, reads and never writes, and asks nothing of any other host.
"""

from dataclasses import dataclass
from pathlib import Path

from reports.serve.server import HOSTS, Site
from reports.serve.watch import Watch
from space.app import verb
from space.cli import fail, one_line_errors
from space.overrides import Place
from space.ranges import Positive, settle_numbers

PORTS = range(2**16)


@dataclass(kw_only=True)
class ServeConfig:
    """What `conf/serve.yaml` holds."""

    outputs: Place = "outputs"
    storage: str | None = None
    """SQLAlchemy URL of running studies that are in no `study.db` under `outputs`."""
    host: str = "127.0.0.1"
    port: int = 8642
    every_s: Positive = 2.0

    def __post_init__(self) -> None:
        settle_numbers(self)
        if self.host not in HOSTS:
            raise ValueError(
                f"host must be {HOSTS[0]}, for the page knows no passwords, and all of outputs "
                f"can be read on it, but got {self.host!r}; from another machine: "
                "ssh -L 8642:127.0.0.1:8642 THIS_HOST, then http://127.0.0.1:8642/ there"
            )
        if self.port not in PORTS:
            raise ValueError(f"port must be 0, for a free one, to 65535, but got {self.port}")


@verb("serve", ServeConfig)
def main(config: ServeConfig) -> None:
    """Answer until Ctrl-C."""
    outputs = Path(config.outputs)
    with one_line_errors():
        if not outputs.is_dir():
            raise ValueError(
                f"outputs must be a folder that is there, but {outputs} is not; run "
                "`python -m search` first, or set outputs=FOLDER"
            )
    watch = Watch(outputs, config.storage, config.every_s)
    try:
        site = Site(outputs, watch, config.port)
    except OSError as error:
        fail(f"port must be free, but {config.port} is not: {error.strerror}; port=0 finds one")
    try:
        print(f"{outputs}: {site.url} (Ctrl-C ends it)", flush=True)
        site.serve_forever()
    finally:
        watch.close()
        site.server_close()


if __name__ == "__main__":
    main()
