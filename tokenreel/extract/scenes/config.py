"""Configuration of `extract scenes`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ScenesConfig(BaseModel):
    """Configuration of `extract scenes`; fields up to `min_frames` decide the scenes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["running-mean", "content", "transnetv2"] = Field(
        default="running-mean",
        description="jumps of the mean colour, ContentDetector of PySceneDetect, or TransNetV2",
    )
    threshold: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="above which a scene begins; None: 18.5 levels of 255 for running-mean, 27 for "
        "content, a probability of 0.5 for transnetv2",
    )
    window: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="frames of the mean of running-mean; None: 3",
    )
    min_frames: int | None = Field(
        default=None,
        ge=1,
        description="fewest frames of a scene; None: 12 for running-mean, 15 for content, 1 for "
        "transnetv2",
    )
    workers: int | None = Field(
        default=None, ge=1, description="processes, a video each; None: as many as cores"
    )
    timeout_seconds: float = Field(
        default=60.0, gt=0, description="time without a heartbeat until a process is killed"
    )

    @model_validator(mode="after")
    def _window_of_running_mean(self) -> "ScenesConfig":
        if self.window is not None and self.method != "running-mean":
            raise ValueError(f"window={self.window}: method={self.method} has none")
        return self
