"""`tokenreel explore`: open a store, and serve its page on this machine until it is interrupted."""

import errno
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import uvicorn
from starlette.types import ASGIApp

from tokenreel.cache.errors import UsageError, machine_error
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.search.loops import compile_loops
from tokenreel.cache.search.query import find_block
from tokenreel.pipeline.defaults import videos_of_store
from tokenreel.pipeline.explore.frames import ClipFrames, FramesUnseen
from tokenreel.pipeline.explore.runs import ExploredRun
from tokenreel.pipeline.explore.server import make_app
from tokenreel.pipeline.explore.views import Explorer
from tokenreel.pipeline.phases.attention import find_clips

log = logging.getLogger(__name__)

PORT = 8765
ADDRESS = "127.0.0.1"


@dataclass(eq=False)
class Serving:
    """A server that is ready to run.

    Attributes:
        url: where the page is, its token among it.
        app: what answers.
        unseen_reason: why the frames of the first clip cannot be shown, "" where they can.
        frames: of the store.
    """

    url: str
    app: ASGIApp
    unseen_reason: str
    frames: ClipFrames
    _socket: socket.socket
    _server: uvicorn.Server = field(init=False)

    def __post_init__(self) -> None:
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Answer until Ctrl-C, or until `stop`."""
        try:
            self._server.run([self._socket])
        finally:
            self.close()

    def close(self) -> None:
        """Give back the port, and end what is decoded ahead."""
        self._socket.close()
        self.frames.close()

    def stop(self) -> None:
        """Let `run` return, from another thread."""
        self._server.should_exit = True


def serve_store(
    path: Path,
    runs: Sequence[Path] = (),
    *,
    root: Path | None = None,
    port: int = PORT,
    clip: str | None = None,
    memory_bytes: int = 4 * 10**9,
    prepare: Callable[[], object] | None = None,
) -> Serving:
    """Open a store and its runs, and take the port.

    Args:
        path: directory of the store.
        runs: folders of runs on it.
        root: folder of the videos; as `extract show` finds it when None.
        port: on this machine; 0 for any that is free.
        clip: that the page opens with: its id, or a part that only one has.
        memory_bytes: for codes that searches keep.
        prepare: done beside, in a thread; compiles the loops of searches when None.

    Raises:
        UsageError: no such clip; a store without tokens or clips; a port that is taken; a run that
            cannot be shown.
        WrongIdentity: a run of another backbone, or of other weights; the fields that differ.
    """
    store = open_store(path)
    find_block(store, None)
    if not store.records:
        raise UsageError(f"{path} has no clips yet: `extract run` writes them")
    chosen = find_clips(store, [clip])[0] if clip is not None else None
    folders = {run.resolve(): run for run in runs}  # one that is named twice is shown once
    explored = [ExploredRun(run, store) for run in folders.values()]
    frames = ClipFrames(store, videos_of_store(store, root))
    reason = ""
    try:
        frames.read(chosen or next(iter(store.records)), [0])
    except FramesUnseen as error:
        reason = str(error)
    taken = take_port(port)
    token = secrets.token_urlsafe(18)
    number = taken.getsockname()[1]
    explorer = Explorer(store, frames, explored, memory_bytes=memory_bytes)
    app = make_app(explorer, token=token, port=number)
    threading.Thread(target=prepare or compile_loops, daemon=True).start()
    url = f"http://{ADDRESS}:{number}/{token}/"
    if chosen is not None:
        url += f"#{urlencode({'clip': chosen}, quote_via=quote)}"
    return Serving(url, app, reason, frames, taken)


def take_port(port: int) -> socket.socket:
    """A socket that listens on a port of this machine, and of no network.

    Raises:
        UsageError: the port is taken, or needs rights.
    """
    # By its protocol asyncio knows that it is TCP, and sends the small parts of an answer at once;
    # without it each waits 40 ms for the browser to confirm the one before.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((ADDRESS, port))
        made.listen(128)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is taken, perhaps by another explorer: name another with --port, or "
                "--port 0 for any that is free"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UsageError(f"port {port} may not be used: name one above 1023") from error
        raise machine_error(error, f"port {port}") or error from error
    return made
