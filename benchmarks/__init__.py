"""Commands that measure: `python -m benchmarks.solver`, `python -m benchmarks.proxy`."""
