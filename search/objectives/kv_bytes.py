"""Bytes of key-value cache per token."""

from search.objectives import CostObjective


class KvBytes(CostObjective):
    title, unit, field = (
        "Key-value cache (bytes per token)",
        "bytes per token",
        "kv_bytes_per_token",
    )


OBJECTIVE = KvBytes()
