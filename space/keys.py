"""Which fields of a description its key holds."""

from collections.abc import Collection, Mapping
from typing import Any


def without_defaults(
    values: Mapping[str, Any], defaults: Mapping[str, Any], always: Collection[str]
) -> dict[str, Any]:
    """The values that keys hold: those of the fields in `always`, and of all later fields those
    that are not at their default.

    `always` names the fields of the first version, and is never added to: a field that is added
    later then leaves the keys of everything that does not use it as they were.
    """
    return {k: v for k, v in values.items() if k in always or v != defaults[k]}
