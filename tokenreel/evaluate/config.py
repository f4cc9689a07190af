"""What an evaluation is told.  Source of the defaults: the released code of CARL and MV-Former."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["EvaluateConfig"]


class EvaluateConfig(BaseModel):
    """Settings of phase 3; a recipe's own come with its embedding file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["carl"] = Field(
        default="carl", description="linear classifier, squared distances, all frames"
    )
    fractions: tuple[float, ...] = Field(
        default=(1.0,), description="shares of the training clips that are labelled: a prefix"
    )
    tau_stride: int = Field(default=2, ge=1, description="every so many-th frame for tau")
    retrieval_stride: int = Field(default=2, ge=1, description="and for AP@K")
    ks: tuple[int, ...] = Field(default=(5, 10, 15), description="the K of AP@K")
    absent_phase: Literal["error", "tcc2021", "lav", "casa"] = Field(
        default="error", description="progression target where a clip lacks a phase"
    )
