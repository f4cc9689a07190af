"""The identity of a store, which is all that its tokens depend on, and its fingerprint.

Two stores of equal identity hold the same tokens.  What should not matter (versions, GPU, host) is
recorded in the store too, but not in its identity.  The format version is part of the fingerprint,
but not of equality: a store of format 1 serves whoever wants the same tokens.
"""

import hashlib
import re
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from tokenreel.cache.canonical import canonical_json, field_differences
from tokenreel.cache.errors import WrongIdentity

FORMAT_VERSION: Literal[2] = 2  # of new stores
KNOWN_VERSIONS = (1, 2)
RULES_VERSION = 2  # of the rules of time and geometry; 1 before there was a version

ADDED = (
    "unit",
    "frames_per_window",
    "rows_per_window",
    "rules",
    "pixel_aspect",
)  # by format 2; unwritten at their defaults


class StoreIdentity(BaseModel):
    """The identity of a token store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1, 2] = FORMAT_VERSION
    architecture: str = Field(description="timm name of the backbone")
    weights_sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="hash of the tensors of the weights, by sorted name"
    )
    blocks: tuple[int, ...] = Field(description="0-based blocks whose output is kept, sorted")
    block_norm: Literal["none"] = Field(
        default="none", description="block outputs are kept before the final norm"
    )
    cls: Literal["blocks+normed", "none"] = Field(
        default="blocks+normed",
        description="CLS of each kept block, and the last block's after the final norm",
    )
    grid: tuple[int, int] = Field(description="rows and columns of the patch grid")
    dim: int = Field(gt=0, description="channels of a token")
    image_size: tuple[int, int] = Field(description="height and width that the backbone sees")
    transform: dict[str, Any] = Field(description="preset name and every parameter of it")
    frames: dict[str, Any] = Field(
        description="which frames: policy 'all', 'fps' with fps, 'uniform' with count, 'listed' or "
        "'scenes' with the sha256 of the list"
    )
    views: tuple[dict[str, Any], ...] = Field(
        default=({"name": "clean"},), description="view 0 is clean; others name seed and strength"
    )
    numeric: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision the backbone computes in"
    )
    codec: dict[str, Any] = Field(description="name, parameters and calibration hash")
    unit: str = Field(
        default="frame",
        pattern="^[a-z][a-z0-9_-]*$",
        description="what a row is: 'frame', 'scene', 'slot' or another word",
    )
    frames_per_window: int = Field(default=1, ge=1, description="frames that the backbone sees")
    rows_per_window: int = Field(default=1, ge=1, description="rows that it makes of them")
    rules: int = Field(
        default=1,
        ge=1,
        le=RULES_VERSION,
        description="version of the rules of the time and the geometry of frames",
    )
    pixel_aspect: Literal["square", "ignore"] = Field(
        default="square",
        description="whether pixels that are not square are made so; of no effect in rules 1",
    )

    @field_validator("frames")
    @classmethod
    def _require_complete_policy(cls, frames: dict[str, Any]) -> dict[str, Any]:
        """Refuse 'uniform' without a count, 'listed' and 'scenes' without the hash of a list."""
        policy, count = frames.get("policy"), frames.get("count")
        if policy == "uniform" and (type(count) is not int or count < 1):
            raise ValueError(f"policy 'uniform' has count {count!r}; wanted an integer >= 1")
        is_list = policy in ("listed", "scenes")
        if is_list and not re.fullmatch("[0-9a-f]{64}", str(frames.get("sha256"))):
            raise ValueError(
                f"policy {policy!r} has sha256 {frames.get('sha256')!r}; wanted 64 hexadecimal "
                "digits"
            )
        return frames

    @model_validator(mode="after")
    def _require_format_2_for_units(self) -> "StoreIdentity":
        given = [name for name in ADDED if getattr(self, name) != self._default(name)]
        if self.format_version == 1 and given:
            raise ValueError(f"format 1 has no {', '.join(given)}; use format_version=2")
        return self

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @property
    def num_tokens(self) -> int:
        """Spatial tokens of a frame, without CLS."""
        return self.grid[0] * self.grid[1]

    @property
    def num_views(self) -> int:
        """Views of each clip, including the clean one."""
        return len(self.views)

    @property
    def num_crops(self) -> int:
        """Crops of a test protocol that each clip has: the clean view, and those that follow it."""
        return 1 + sum(str(view.get("name", "")).startswith("crop-") for view in self.views)

    @property
    def num_augmented(self) -> int:
        """Augmented views of each clip, which come last."""
        return self.num_views - self.num_crops

    def to_json(self) -> bytes:
        """The canonical bytes of recipe.json, without fields of format 2 at their defaults."""
        values = self.model_dump(mode="json")
        unwritten = {name for name in ADDED if values[name] == self._default(name)}
        return canonical_json({k: v for k, v in values.items() if k not in unwritten})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def before_calibration(self) -> "StoreIdentity":
        """The identity before its codec is calibrated, which is known without running a model."""
        codec = {**self.codec, "calibration_sha256": None}
        return self.model_copy(update={"codec": codec})

    def differences(self, other: "StoreIdentity") -> list[tuple[str, Any, Any]]:
        """Fields that differ: (dotted name, value here, value there), nested ones one by one.

        The format version is none of them.
        """
        here, there = (
            identity.model_dump(mode="json", exclude={"format_version"})
            for identity in (self, other)
        )
        return field_differences(here, there)

    def has_tokens_of(self, other: "StoreIdentity") -> bool:
        """Whether stores of the two hold the same tokens: equal but for the format version."""
        return not self.differences(other)

    def require(
        self,
        wanted: "StoreIdentity",
        *,
        path: object,
        advice: str = "use another --out, or the settings of the store",
    ) -> None:
        """Raise unless the identity of the store at path is the one wanted.

        Args:
            wanted: the identity.
            path: of the store, for the message.
            advice: what to do where they differ.

        Raises:
            WrongIdentity: with a table of the fields that differ and what to do.
        """
        rows = self.differences(wanted)
        if not rows:
            return
        table = "\n".join(
            f"  {name}: store has {here!r}, wanted {there!r}" for name, here, there in rows
        )
        raise WrongIdentity(
            f"{path} was made with other settings; {len(rows)} field(s) differ:\n{table}\n{advice}"
        )


def wrong_fields(error: ValidationError) -> str:
    """What is wrong with each field, in one line.

    >>> try:
    ...     StoreIdentity.model_validate({"dim": 0})
    ... except ValidationError as error:
    ...     wrong_fields(error).split("; ")[-2:]
    ['frames: Field required', 'codec: Field required']
    """
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the whole'}: "
        f"{item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    )
