"""The precision of a forward pass on a device."""

import torch


def precision_of(word: str, device: torch.device) -> torch.dtype:
    """The requested precision; "auto" is bfloat16 on a GPU, float32 elsewhere."""
    if word == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[word]
