"""Addresses of files on the Hugging Face hub, as plain https URLs: no client library is needed for a public file."""

from __future__ import annotations

import os
import re
from typing import Final

from pipeline.core.errors import ConfigError

HUB: Final = "hf://"
HUB_EXAMPLE: Final = "hf://timm/vit_small_patch14_dinov2.lvd142m/model.safetensors"


def hub_address(uri: str) -> str:
    """Returns where a file is fetched: `hf://OWNER/NAME[@REVISION]/FILE` lies on HF_ENDPOINT, by default the hub.

    Any other address is returned as it is.

    Raises:
        ConfigError: an address on the hub that is not of this form.
    """
    if not uri.startswith(HUB):
        return uri
    match = re.fullmatch(r"([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", uri.removeprefix(HUB))
    if match is None:
        raise ConfigError(f"{uri} names no file of the hub; give hf://OWNER/NAME/FILE, such as {HUB_EXAMPLE}")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{match[1]}/resolve/{match[2] or 'main'}/{match[3]}"
