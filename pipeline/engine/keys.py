"""The key of an artifact: equal keys mean equal artifacts.

key = label of the stage - sha256(stage, version, config, snapshot of outside files, {input: key})
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipeline.core.stage import Stage, config_dict

KEY_DIGITS: Final = 16
"""Hex digits of a key."""


def key_of(
    stage: Stage[Any, ..., Any], config: Any, snapshot: str | None, input_keys: Mapping[str, Any], look: int = 0
) -> str:
    """Returns the key of what a stage makes.

    Args:
        stage: of which name and version count.
        config: every field of which counts.
        snapshot: digest of what the stage reads from outside; None where it reads nothing.
        input_keys: edge name -> key, list of keys, or None for an open edge.
        look: number of the renewed looks at what could not be read before.
    """
    identity: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "config": config_dict(config),
        "inputs": dict(input_keys),
    }
    if snapshot is not None:
        identity["snapshot"] = snapshot
    if look:
        identity["look"] = look
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
    label = re.sub(r"[^a-z0-9.]+", "-", str(getattr(config, "label", stage.name)).lower()).strip("-.")
    return f"{label}-{digest}"


def digest_of(parts: Iterable[str]) -> str:
    """Returns the 8 hex digits that stand for these texts in this order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
