"""Bytes of key-value cache per token, at the recipe's sequence length; `kv_bytes@4096`: of so many
tokens together."""

from search.objectives import CostObjective, MeterObjective, Objective


class CacheAt(MeterObjective):
    kind = "kv_bytes"


class KvBytes(CostObjective):
    title, unit, field = (
        "Key-value cache (bytes per token)",
        "bytes per token",
        "kv_bytes_per_token",
    )
    example = "4096"

    def at(self, where: str) -> Objective:
        return CacheAt().at(where)


OBJECTIVE = KvBytes()
