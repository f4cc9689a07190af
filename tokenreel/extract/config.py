"""Configuration of an extraction: backbone, weights, preprocessing, frames, codec and machine."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenreel.cache.canonical import is_whole_number


class ExtractConfig(BaseModel):
    """Configuration of an extraction; fields up to `numeric` decide the tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(
        default="vit_base_patch8_224.dino",
        description="timm name of a ViT or ResNet, or FAMILY:NAME",
    )
    weights: str = Field(
        default="pretrained", description="pretrained, random:SEED, or a file or folder of weights"
    )
    weights_key: str | None = Field(
        default=None,
        description="which tensors of a file that holds several sets: teacher, student, ...",
    )
    blocks: tuple[int, ...] = Field(
        default=(3, 7, 11), description="0-based blocks to keep; negative from the end"
    )
    image_size: int | tuple[int, int] | None = Field(
        default=None, description="image of the backbone: side of a square, or height,width"
    )
    transform: (
        Literal[
            "dino-256-224",
            "cover",
            "mvformer-eval",
            "mvformer-train",
            "torchvision-video",
            "stretch",
        ]
        | None
    ) = Field(
        default=None,
        description="preset that turns a frame into an image; None: the backbone's own, for most "
        "dino-256-224",
    )
    pixel_aspect: Literal["square", "ignore"] = Field(
        default="square", description="make pixels that are not square so, or ignore their aspect"
    )
    fps: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="most frames a second, by time; None: all frames",
    )
    frames: str = Field(
        default="all",
        description="all, uniform:T (T a clip, evenly in time), listed:FILE (CSV with columns "
        "video,time_seconds), or scenes:FOLDER (of `extract scenes`: a row for each scene)",
    )
    pixels: Literal["centre", "all"] | None = Field(
        default=None,
        description="keep JPEGs of the scenes and no tokens: the centre frame at 224, or 12 frames "
        "at 128x171; backbone, weights, blocks and codec are then without effect",
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of the JPEGs of pixels=")
    views: int = Field(
        default=0, ge=0, le=64, description="stored augmentations beside the clean view"
    )
    crops: Literal[1, 3] = Field(
        default=1,
        description="3: store the crops at both ends of the longer side as views beside the centre",
    )
    view_seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the augmented views")
    codec: str = Field(default="int8", description="codec of the tokens: a name of cache.codec")
    numeric: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of the backbone's matrix products"
    )
    decoder: Literal["pyav", "decord"] = Field(
        default="pyav", description="decoder of the first attempt; the second uses the other"
    )
    batch_frames: int | None = Field(
        default=None, ge=1, description="frames of a batch; None: the device's default"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    compile_backbone: bool = Field(
        default=False,
        description="whether to torch.compile the backbone on a GPU; ignored on a CPU",
    )
    workers: int | None = Field(
        default=None, ge=1, description="decode processes; None: this process's share of the cores"
    )
    write_threads: int | None = Field(
        default=None, ge=1, description="threads that write clips; None: the device's default"
    )
    timeout_seconds: float = Field(
        default=60.0, gt=0, description="time without a heartbeat until a decode process is killed"
    )
    max_failures: int | None = Field(
        default=None, ge=0, description="most failed clips; more end the run"
    )

    @property
    def num_views(self) -> int:
        """Views of a clip: the clean one, other crops, and augmentations."""
        return self.crops + self.views

    @field_validator("blocks")
    @classmethod
    def _some_distinct_blocks(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if not blocks or len(set(blocks)) != len(blocks):
            raise ValueError("blocks lists at least one block, each once")
        return blocks

    @field_validator("backbone")
    @classmethod
    def _timm_is_the_default(cls, backbone: str) -> str:
        return backbone.removeprefix("timm:")

    @field_validator("frames")
    @classmethod
    def _known_policy(cls, frames: str) -> str:
        kind, _, value = frames.partition(":")
        counts = kind == "uniform" and is_whole_number(value) and int(value) > 0
        if frames == "all" or counts or (kind in ("listed", "scenes") and value):
            return f"uniform:{int(value)}" if counts else frames
        raise ValueError("frames is all, uniform:T, listed:FILE or scenes:FOLDER")

    @model_validator(mode="after")
    def _one_policy(self) -> "ExtractConfig":
        if self.fps is not None and self.frames != "all":
            raise ValueError(
                f"fps={self.fps:g} and frames={self.frames} both choose frames: give one of them "
                "(fps=null takes back an fps of the data set)"
            )
        if self.pixels is not None and not self.frames.startswith("scenes:"):
            raise ValueError(
                f"pixels={self.pixels} keeps pictures of scenes, but frames={self.frames}: give "
                "frames=scenes:FOLDER, which `extract scenes` makes"
            )
        if self.pixels is not None and self.views:
            raise ValueError(f"pixels={self.pixels} keeps frames as they are: views is 0")
        if self.crops > 1 and (self.views or self.pixels is not None):
            raise ValueError(
                f"crops={self.crops} are the crops of a test: it takes neither views= nor pixels="
            )
        return self

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_side_is_a_square(cls, given: Any) -> Any:
        sides = list(given) if isinstance(given, list | tuple) else [given]
        if any(isinstance(side, int) and side <= 0 for side in sides):
            raise ValueError("image_size is positive")
        return sides[0] if len(sides) in (1, 2) and sides[0] == sides[-1] else given
