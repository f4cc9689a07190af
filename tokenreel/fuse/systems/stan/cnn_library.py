"""CNNs and pre-trained weights of torchvision and timm: by name, with the hash of their tensors."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenreel.cache.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER = "fc."  # of torchvision's and timm's residual networks
SOURCES = {  # CNN -> the module that builds it, and the name of its weights there
    "resnet18": ("torchvision.models", "IMAGENET1K_V1"),
    "seresnet50": ("timm", ""),
    "r2plus1d_18": ("torchvision.models.video", "KINETICS400_V1"),
    "small": ("tokenreel", ""),
}


def make_cnn(name: str, *, pretrained: bool) -> Any:
    """A CNN of torchvision or timm with its classifier."""
    module, weights = SOURCES[name]
    library = import_module(module)
    if module == "timm":
        return library.create_model(name, pretrained=pretrained)
    return getattr(library, name)(weights=weights if pretrained else None)


def pretrained_name(name: str) -> str:
    """The name that its library gives the pre-trained weights of a CNN, and the file they are in.

    >>> pretrained_name("resnet18")
    'ResNet18_Weights.IMAGENET1K_V1 (resnet18-f37072fd.pth)'
    """
    module, weights = SOURCES[name]
    library: Any = import_module(module.partition(".")[0] + ".models")
    if module == "timm":
        found = library.get_pretrained_cfg(name)
        file = found.hf_hub_id or found.url.rpartition("/")[2]
        return f"{found.architecture}.{found.tag} ({file})"
    entry = library.get_model_weights(name)[weights]
    return f"{entry} ({entry.url.rpartition('/')[2]})"


@cache
def pretrained_sha256(name: str) -> str:
    """SHA-256 over name, type, shape and bytes of each tensor of pre-trained weights, by name.

    The classifier does not count.

    Raises:
        UsageError: weights that are unavailable.
    """
    import torch

    digest = hashlib.sha256()
    for part, value in sorted(pretrained_state(name).items()):
        if not part.startswith(CLASSIFIER):
            tensor = value.detach().contiguous()
            digest.update(f"{part}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pretrained_state(name: str) -> "Mapping[str, Tensor]":
    """The pre-trained tensors of a CNN by name, with its classifier.

    Raises:
        UsageError: weights that are unavailable.
    """
    try:
        found: Mapping[str, Tensor] = make_cnn(name, pretrained=True).state_dict()
    except Exception as error:  # no network, a proxy, a hash that differs, a full disk
        first = str(error).splitlines()[0] if str(error) else ""
        raise UsageError(
            f"weights=pretrained: {name} could not be loaded ({type(error).__name__}: {first}); "
            "without a network give the file of its weights, or random:SEED for untrained ones"
        ) from error
    return found
