"""A sample and a run on it that take seconds: few clips, small pictures, a small model."""

from typer.testing import CliRunner

from tokenreel.pipeline.cli.extract import app

SMALL = [
    "optim.epochs=1",
    "data.num_frames=6",
    "data.batch_clips=2",
    "pooling.channels=8",
    "temporal.hidden=8",
    "temporal.heads=2",
    "temporal.fc_width=8",
    "temporal.feed_forward=8",
]


def extract_sample(*words: str) -> None:
    """Extract a small sample in the current folder."""
    small = ["data.train=2", "image_size=32", "blocks=11", "codec=fp16"]
    made = CliRunner().invoke(app, ["run", "sample", *small, *words])
    assert made.exit_code == 0, made.output
