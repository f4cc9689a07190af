"""What the page shows, and how much of it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ReportConfig"]


class ReportConfig(BaseModel):
    """Bounds of the page; tables and charts always hold everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="TokenReel report", description="heading of the page")
    actions: int = Field(default=4, ge=0, description="at most so many actions with pictures")
    recipes: int = Field(default=4, ge=1, description="at most so many recipes with pictures")
    strip_frames: int = Field(default=7, ge=2, description="frames of an alignment strip")
    slider_frames: int = Field(default=48, ge=2, description="frames of a clip under the slider")
    queries: int = Field(default=2, ge=1, description="retrieval queries of an action")
    k: int = Field(default=5, ge=1, description="frames retrieved for each")
    attention_clips: int = Field(default=2, ge=0, description="clips of a run with attention")
    height: int = Field(default=84, ge=16, description="of a frame, pixels")
    points: int = Field(default=500, ge=10, description="frames drawn in a projection")
    projection: Literal["pca", "tsne"] = Field(default="pca", description="of the embeddings")
