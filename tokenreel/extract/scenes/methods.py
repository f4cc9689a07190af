"""The methods of finding scenes by name."""

from tokenreel.extract.scenes.config import ScenesConfig
from tokenreel.extract.scenes.cutter import Cutter, RunningMean


def cutter_for(config: ScenesConfig) -> Cutter:
    """The method of a config, ready for one video.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    method: type[Cutter] = RunningMean
    if config.method == "content":
        from tokenreel.extract.scenes.content import Content

        method = Content
    elif config.method == "transnetv2":
        from tokenreel.extract.scenes.transnet import TransNet  # torch

        method = TransNet
    return method(threshold=config.threshold, min_frames=config.min_frames, window=config.window)
