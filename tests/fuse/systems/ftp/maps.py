"""Tiny clip maps whose tokens show facts, and texts that say them."""

import numpy as np

from tests.fuse.tiny import write_store
from tokenreel.cache.format.text_file import write_text_file
from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.systems.ftp.config import AlignConfig, FtpConfig

ACTIONS = ("jump", "run")
ENCODER = {"name": "tiny-words", "sha256": "1" * 64}
CHANNELS = 5
CLIPS = (*(f"train{i}" for i in range(8)), *(f"val{i}" for i in range(4)))


def action_of(clip_id):
    return ACTIONS[int(clip_id[-1]) % len(ACTIONS)]


def write_maps(path, **changes):
    """Clips of two actions in turn; the tokens of one are above those of the other."""
    fields = {
        "train": 8,
        "val": 4,
        "actions": ACTIONS,
        "drift": False,
        "noise": 0.2,
        "first_frames": 3,
        "codec": "fp16",
        "blocks": (1, 3),
        "shift": lambda clip_id, frame: 1.0 if action_of(clip_id) == "run" else -1.0,
    }
    return write_store(path, **{**fields, **changes})


def write_texts(path, *, clips=CLIPS, prompts=("A", "B"), lacking=(), encoder=None, tokens=False):
    """A text a clip and prompt, the same for clips of one action; `lacking` are (clip, prompt)."""
    words = [f"{prompt} {action}" for prompt in prompts for action in ACTIONS]
    rng = np.random.default_rng(3)
    pooled = rng.standard_normal((len(words), CHANNELS)).astype(np.float32)
    rows = np.array(
        [
            [
                -1 if (clip, prompt) in lacking else words.index(f"{prompt} {action_of(clip)}")
                for prompt in prompts
            ]
            for clip in clips
        ]
    )
    each = [rng.standard_normal((2 + n % 3, CHANNELS)) for n in range(len(words))]
    return write_text_file(
        path,
        clip_ids=sorted(clips),
        prompts=prompts,
        texts=words,
        pooled=pooled,
        rows=rows[np.argsort(clips)],
        provenance={"encoder": encoder or ENCODER, "models": ["m"]},
        tokens=each if tokens else None,
    )


def small(**changes):
    """A config that trains in a fraction of a second."""
    optim = OptimConfig(name="adamw", lr=1e-2, epochs=2, checkpoint_epochs=100)
    fields = {
        "data": FtpConfig().data.with_(num_frames=3, batch_clips=4),
        "optim": optim,
        "align": AlignConfig(optim=optim.with_(clip_grad_norm=1e30), batch_clips=4),
        "prompts": ("A", "B"),
        "head_channels": 4,
        "blocks": 1,
    }
    return FtpConfig(**{**fields, **changes})
