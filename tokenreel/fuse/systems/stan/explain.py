"""Where the streams look: Grad-CAM over the pictures of scenes, attention of CLS over the scenes.

Grad-CAM (Selvaraju et al., 2017) of the decided tags: the map before pooling, each channel weighted
by the mean gradient of their scores, summed and cut at 0.  The map is that of the CNN that is
trained, or the tokens of a frozen backbone that keeps more than one a scene.

Shapes: F scenes, T positions of a clip, K tags, C channels, h x w of a map.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenreel.fuse.data.frames import Frames
from tokenreel.fuse.systems.stan.encoders import TransformerEncoder
from tokenreel.fuse.systems.stan.model import StanModel, scores_of
from tokenreel.fuse.systems.stan.pictures import SceneCnn


def explain_clip(
    model: StanModel,
    frames: Mapping[str, Frames],
    gather: Tensor,
    valid: Tensor,
    *,
    grids: Mapping[str, tuple[int, int]],
    threshold: float,
) -> dict[str, Any]:
    """Scores, decided tags, maps and attention of one clip: the fields of Explained but two.

    Args:
        model: in evaluation mode.
        frames: store -> its distinct units F.
        gather: int64 (1, T), which of them each scene is.
        valid: bool (1, T).
        grids: stream -> rows and columns of the tokens of a scene, of streams without a CNN.
        threshold: a score above it is decided; the highest where none is.
    """
    with torch.inference_mode(False), torch.enable_grad():
        scenes, maps = _scenes_and_maps(model, frames, gather, grids)
        logits = model(scenes, valid)
        scores = scores_of(logits.detach().float(), model.config)[0]
        decided = [place for place, score in enumerate(scores.tolist()) if score > threshold]
        decided = decided or [int(scores.argmax())]
        heads = slice(0, 2) if logits.shape[1] == 3 else slice(0, 1)  # those that score a clip
        total = logits[0, heads][:, decided].sum()
        gradients = torch.autograd.grad(total, list(maps.values())) if maps else ()
    return {
        "scores": scores.cpu().numpy(),
        "decided": tuple(decided),
        "maps": {
            name: grad_cam(found.detach(), gradient).cpu().numpy()
            for (name, found), gradient in zip(maps.items(), gradients, strict=True)
        },
        "attention": {
            name: _attention(encoder, scenes[name].detach(), gather, valid).cpu().numpy()
            for name, encoder in model.encoders.items()
            if isinstance(encoder, TransformerEncoder)
        },
    }


def grad_cam(found: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of maps, (F, C, h, w) or (F, C, t, h, w) -> (F, h, w); of several frames the mean.

    Args:
        found: maps before pooling.
        gradient: of a score with respect to them.
    """
    places = tuple(range(2, found.ndim))
    weights = gradient.mean(dim=places, keepdim=True)
    added = (weights * found).sum(dim=1).relu()
    return added.mean(dim=1) if added.ndim == 4 else added


def _scenes_and_maps(
    model: StanModel,
    frames: Mapping[str, Frames],
    gather: Tensor,
    grids: Mapping[str, tuple[int, int]],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As StanModel.scenes, and the map of each stream that has one, of which gradients are taken.

    A stream of one vector a scene has none.
    """
    scenes: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}
    for name, store in model.stores.items():
        units = frames[store]
        if name in model.cnns:
            cnn = model.cnns[name]
            assert isinstance(cnn, SceneCnn)
            with _KeptMap(cnn, name, maps):
                crops = model.centre_crops(frames)[name]
                vectors = cnn(units.pictures, crops)
        elif model.config.feature == "cls":
            assert units.cls is not None
            vectors = units.cls.clone()
        else:
            tokens = units.tokens((model.blocks[name],)).clone()  # (F, N, C)
            if tokens.shape[1] > 1:
                found = tokens.unflatten(1, grids[name]).permute(0, 3, 1, 2)
                maps[name] = found.detach().requires_grad_()
                vectors = maps[name].mean(dim=(2, 3))
            else:
                vectors = tokens.mean(dim=1)
        scenes[name] = vectors[gather]
    return scenes, maps


class _KeptMap:
    """Keeps the map of a CNN before pooling while it runs."""

    def __init__(self, cnn: SceneCnn, name: str, maps: dict[str, Tensor]) -> None:
        def keep(module: Any, given: Any, made: Tensor) -> None:
            maps[name] = made

        self._module, self._keep = cnn.net.get_submodule(cnn.last_map), keep

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._keep)

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def _attention(
    encoder: TransformerEncoder, scenes: Tensor, gather: Tensor, valid: Tensor
) -> Tensor:
    """The share of the attention of CLS in the last layer that each unit has, (F,).

    The mean of the heads; what CLS gives to itself is left out, so that they sum to 1.
    """
    with torch.no_grad():
        weights = encoder.attention(scenes, valid)[0].float().mean(dim=0) * valid[0]  # (T,)
        found = weights.new_zeros(int(gather.max()) + 1)
        found.index_add_(0, gather[0], weights)
        return found / found.sum()
