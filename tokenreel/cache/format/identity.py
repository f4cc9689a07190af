"""The identity of a store, which is all that its tokens depend on, and its fingerprint.

Two stores of equal identity hold the same tokens.  What should not matter (versions, GPU, host) is
recorded in the store too, but not in its identity.
"""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenreel.cache.canonical import canonical_json, field_differences
from tokenreel.cache.errors import WrongIdentity

FORMAT_VERSION = 1


class StoreIdentity(BaseModel):
    """The identity of a token store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
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
    frames: dict[str, Any] = Field(description="which frames: {'policy': 'all'} or 'fps'")
    views: tuple[dict[str, Any], ...] = Field(
        default=({"name": "clean"},), description="view 0 is clean; others name seed and strength"
    )
    numeric: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision the backbone computes in"
    )
    codec: dict[str, Any] = Field(description="name, parameters and calibration hash")

    @property
    def num_tokens(self) -> int:
        """Spatial tokens of a frame, without CLS."""
        return self.grid[0] * self.grid[1]

    @property
    def num_views(self) -> int:
        """Views of each clip, including the clean one."""
        return len(self.views)

    def to_json(self) -> bytes:
        """The canonical bytes of recipe.json."""
        return canonical_json(self.model_dump(mode="json"))

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
        """Fields that differ: (dotted name, value here, value there), nested ones one by one."""
        return field_differences(self.model_dump(mode="json"), other.model_dump(mode="json"))

    def require(self, wanted: "StoreIdentity", *, path: object) -> None:
        """Raise unless the identity of the store at path is the one wanted.

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
            f"{path} was made with other settings; {len(rows)} field(s) differ:\n{table}\n"
            "use another --out, or the settings of the store"
        )
