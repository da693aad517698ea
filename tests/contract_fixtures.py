"""A contract suite run on one implementation, as users run it on their own."""

import subprocess
import sys
from pathlib import Path

from study_fixtures import ROOT, environment


def failures_of(suite: Path, implementation: Path) -> set[str]:
    """Names of the suite's tests that an implementation fails, of those that it is given to."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
    command += ["--implementation", str(implementation), "-k", implementation.name]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert lines, f"the suite finds nothing wrong with {implementation}: {done.stdout}"
    return {line.split("::")[-1].split("[")[0].split(" ")[0] for line in lines}
