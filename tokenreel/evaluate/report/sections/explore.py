"""Commands of the page that open a clip in the explorer, beside the run that it is shown for."""

import shlex
from pathlib import PurePosixPath

from tokenreel.evaluate.report.data.gather import RunPage
from tokenreel.evaluate.report.page.html import Html, tag


def explore_line(run: RunPage, clip_id: str) -> Html | None:
    """A line with the command; None where the embeddings say of no store that made them."""
    store = str(run.file.provenance.get("store_name", ""))
    if not store:
        return None
    # A relative path is what was typed; any other would say where this machine keeps its files.
    folder = PurePosixPath("runs", run.folder.name) if run.folder.is_absolute() else run.folder
    words = ["tokenreel", "explore", f"stores/{store}", "--run", str(folder), "--clip", clip_id]
    return tag("p", "Look into it: ", tag("code", shlex.join(words)), class_="explore")
