"""What this machine's processor can do, as torch sees it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def has_instructions(*names: str) -> bool:
    """Whether the processor has one of these, by `torch.cpu`'s names: "amx_bf16", for example."""
    # Not every version that `bench` works with can be asked.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in names)
