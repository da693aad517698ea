"""Settings of all tests."""

import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from browser_fixtures import browser  # noqa: F401
from cluster_fixtures import ray_here, slurm_here  # noqa: F401
from hypothesis import HealthCheck, settings

for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):  # `nohup`, or a shell's `&`, may have some ignored, here and in all that tests start
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", settings.get_profile("dev"), derandomize=True, print_blob=True, database=None
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--implementation",
        metavar="NAME",
        help="run a contract suite on this one alone: a name, a module or a file such as mine.py",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A contract suite names its `DOOR`; each of its tests runs on every implementation, with the
    marks that the suite's `MARKS` may have for it."""
    door = getattr(metafunc.module, "DOOR", None)
    if door is not None and "implementation" in metafunc.fixturenames:
        given = metafunc.config.getoption("--implementation")
        named = getattr(metafunc.module, "named", lambda name: [name])
        marks = {} if given else getattr(metafunc.module, "MARKS", {})
        names = [
            pytest.param(each, marks=marks.get(name, ()))
            for name in ([given] if given else door.names())
            for each in named(name)
        ]
        metafunc.parametrize("implementation", names)
