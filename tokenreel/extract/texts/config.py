"""Configuration of `extract text`."""

from pydantic import BaseModel, ConfigDict, Field


class TextConfig(BaseModel):
    """Configuration of `extract text`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = Field(
        default="minilm",
        description="minilm, sentence-transformers:NAME_OR_FOLDER, transformers:NAME_OR_FOLDER, or "
        "hashed-words, a stand-in that knows no language",
    )
    tokens: bool = Field(default=False, description="keep the vectors of tokens too, as float16")
    max_tokens: int | None = Field(
        default=None, ge=1, description="longest text; None: what the encoder was made for"
    )
    model: str | None = Field(
        default=None, description="only texts of that model; None: all are of one"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
