"""What an extraction is told: backbone, weights, preprocessing, frames, codec and the machine."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["ExtractConfig"]


class ExtractConfig(BaseModel):
    """One extraction.  Fields down to `numeric` decide the tokens; the rest only how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(
        default="vit_base_patch8_224.dino", description="timm name of a ViT or ResNet"
    )
    weights: str = Field(
        default="pretrained", description="pretrained, random:SEED, or a local file"
    )
    blocks: tuple[int, ...] = Field(
        default=(3, 7, 11), description="0-based blocks that are kept; negative from the end"
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="what the backbone sees: side of a square, or height,width"
    )
    transform: Literal["dino-256-224", "mvformer-eval", "mvformer-train"] = Field(
        default="dino-256-224", description="preset that makes the image out of a frame"
    )
    fps: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="at most so many frames a second, by time; None: all",
    )
    views: int = Field(default=0, ge=0, le=64, description="augmented views beside the clean one")
    view_seed: int = Field(default=0, ge=0, description="seed of the augmented views")
    codec: str = Field(default="int8", description="how tokens are kept: a name of cache.codec")
    numeric: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision the backbone's products are computed in"
    )
    decoder: Literal["pyav", "decord"] = Field(
        default="pyav", description="library of the first attempt; the second uses the other"
    )
    batch_frames: int | None = Field(
        default=None, ge=1, description="frames of a batch, of any clips; None: the device's"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    compile_backbone: bool = Field(
        default=False,
        description="whether torch.compile makes the backbone's kernels; on a GPU, never on a CPU",
    )
    workers: int | None = Field(
        default=None, ge=1, description="decode processes; None: this process's share of the cores"
    )
    write_threads: int | None = Field(
        default=None, ge=1, description="threads that write clips; None: the device's"
    )
    timeout_seconds: float = Field(
        default=60.0, gt=0, description="silence of a decode process before it is killed"
    )
    max_failures: int | None = Field(
        default=None, ge=0, description="end the run after more failed clips than this"
    )

    @field_validator("blocks")
    @classmethod
    def _some_distinct_blocks(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if not blocks or len(set(blocks)) != len(blocks):
            raise ValueError(f"blocks names at least one block, each once; got {blocks}")
        return blocks

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_side_is_a_square(cls, given: Any) -> Any:
        sides = list(given) if isinstance(given, list | tuple) else [given]
        if any(isinstance(side, int) and side <= 0 for side in sides):
            raise ValueError("image_size is positive")
        return sides[0] if len(sides) == 1 or sides[0] == sides[-1] else given
