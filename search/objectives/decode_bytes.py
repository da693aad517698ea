"""Bytes moved from memory to decode one token."""

from search.objectives import CostObjective


class DecodeBytes(CostObjective):
    title = "Moved to decode a token (bytes)"
    unit, field = "bytes per token", "decode_bytes_per_token"


OBJECTIVE = DecodeBytes()
