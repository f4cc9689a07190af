"""The server answers one browser on this machine; what it answers is right."""

import asyncio
import base64
import http.client
import io
import json
import shutil
import socket
import sys
from types import SimpleNamespace
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.fuse.systems.stan.pixel_stores import write_pixel_store
from tests.fuse.tiny import write_store
from tests.pipeline.explore import scene
from tests.pipeline.explore.conftest import serving
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.search import search
from tokenreel.pipeline.apply.probes import fit_probes
from tokenreel.pipeline.cli.main import app
from tokenreel.pipeline.explore import command, frames, runs
from tokenreel.pipeline.explore.command import serve_store
from tokenreel.pipeline.explore.frames import FramesUnseen
from tokenreel.pipeline.explore.server import FILES
from tokenreel.pipeline.explore.views import Explorer


def ask(server, path, *, method="GET", host=None, headers=(), raw=False, **words):
    """Status, headers and body of a request below the token; `raw` is the whole path."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=300)
    target = path if raw else address.path + path
    if words:
        target += f"?{urlencode(words, quote_via=quote)}"
    connection.putrequest(method, target, skip_host=True)
    connection.putheader("Host", host or address.netloc)
    for name, value in dict(headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def get(server, path, **words):
    status, _, body = ask(server, path, **words)
    assert status == 200, body
    return json.loads(body)


def test_the_page_and_its_files_load_nothing_from_elsewhere(server):
    for name in ("", *FILES):
        status, headers, body = ask(server, name)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        text = body.decode()
        assert [w for w in ("http:", "https:", "//cdn", "eval(", "innerHTML") if w in text] == []
    assert ask(server, "main.js")[1]["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["", "api/store", "frame?clip=train/one.mp4&frame=0"])
def test_another_host_origin_site_token_or_method_is_refused(server, path):
    port = urlsplit(server.url).port
    own = f"http://127.0.0.1:{port}"
    assert ask(server, path, headers={"Origin": own})[0] == 200
    assert ask(server, path, headers={"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert ask(server, path, host="localhost:1")[0] == 421
    assert ask(server, path, host=f"evil.example:{port}")[0] == 421
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", ""):
        assert ask(server, path, headers={"Origin": origin})[0] == 403
    for site in ("cross-site", "same-site"):
        assert ask(server, path, headers={"Sec-Fetch-Site": site})[0] == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert ask(server, path, method=method)[0] == 405
    for token in ("", "x", "x" * 24, "\u00e4"):
        status, _, body = ask(server, f"/{quote(token)}/{path}", raw=True)
        assert status == 404
        assert b"train" not in body


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "/etc/passwd",
        "page/main.js",
        "main.js/../../server.py",
        "server.py",
        "main.js%00",
    ],
)
def test_a_path_out_of_the_page_is_refused(server, path):
    status, _, body = ask(server, path)
    assert status == 404
    assert b"root:" not in body


@pytest.mark.parametrize("clip", ["../store", "/etc/passwd", "one", "", "train/one.mp4/.."])
def test_only_ids_of_clips_name_clips(server, clip):
    for path in ("api/clip", "frame", "api/overlay", "api/near"):
        words = {"frame": 0, "kind": "pca", "block": 0, "first": 0, "run": 0}
        status, _, body = ask(server, path, clip=clip, **words)
        assert status == 404
        assert "has no clip" in json.loads(body)["error"]


def test_small_parts_of_an_answer_are_sent_at_once():
    """Else each waits 40 ms for the browser to confirm the one before (Nagle's algorithm)."""
    taken, found = command.take_port(0), []

    async def connect():
        def note(_, writer):
            own = writer.get_extra_info("socket")
            found.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(note, sock=taken) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            await reader.read()
            writer.close()

    asyncio.run(connect())
    assert found == [1]


def test_codes_of_one_block_and_view_stay_in_memory(work):
    made = Explorer(open_store(work / "store"), frames=None, memory_bytes=2**30)
    first = made.index(0, 0)
    assert made.index(0, 0) is first
    made.index(5, 0).load()
    assert list(made._indexes) == [(5, 0)]


def test_it_listens_on_this_machine_alone(server):
    assert urlsplit(server.url).hostname == "127.0.0.1"
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_clips_are_chosen_by_split_action_phase_and_text(server):
    about = get(server, "api/store")
    assert about["num_clips"] == 4
    assert about["num_frames"] == 40
    assert about["blocks"] == [0, 5]
    assert about["grid"] == [8, 8]
    assert about["phases"] == ["come", "go"]
    assert about["splits"] == ["train", "val"]

    def ids(**words):
        found = get(server, "api/clips", **words)
        assert found["num_clips"] == len(found["clips"])
        return [clip["id"] for clip in found["clips"]]

    assert len(ids()) == 4
    assert ids(split="val") == ["val/four.mp4", "val/two.mp4"]
    assert ids(text="ONE") == ["train/one.mp4"]
    assert ids(text="o", split="train") == ["train/one.mp4"]
    assert len(ids(phase="come")) == 4
    assert ids(phase="none") == []
    assert ids(action="lift") == []
    assert len(ids(action="")) == 4
    clip = get(server, "api/clip", clip="train/one.mp4")
    assert clip["seconds"] == [number / 10 for number in range(10)]
    assert clip["labels"] == [0] * 5 + [1] * 5
    assert clip["phases"] == ["go", "come"]


def test_a_part_of_an_id_is_found_whatever_its_case():
    record = SimpleNamespace(clip_id="Val/DANCE.MP4", split="val", action="", num_frames=3)
    made = Explorer(SimpleNamespace(records={record.clip_id: record}), frames=None)
    wanted = [{"id": "Val/DANCE.MP4", "split": "val", "action": "", "frames": 3}]
    for text, clips in (("dance.mp4", wanted), ("L/Da", wanted), ("two", [])):
        assert made.clips(text=text)["clips"] == clips


def test_a_frame_is_the_one_that_the_backbone_saw(server):
    for number in (0, 7):
        status, headers, body = ask(server, "frame", clip="val/two.mp4", frame=number)
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        image = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
        assert image.shape == (scene.SIDE, scene.SIDE, 3)
        error = np.abs(image.astype(int) - scene.draw("two", number))
        assert np.median(error) < 6
    assert ask(server, "frame", clip="val/two.mp4", frame=10)[0] == 404
    assert ask(server, "frame", clip="val/two.mp4", frame="x")[0] == 404
    assert ask(server, "frame", clip="val/two.mp4", frame=0, view=1)[0] == 404


def test_a_video_of_another_length_or_size_is_not_shown_as_the_stores(work, tmp_path):
    videos = shutil.copytree(work / "videos", tmp_path / "videos")
    scene.write_video(videos / "train/one.mp4", "one", num_frames=6)
    scene.write_video(videos / "val/two.mp4", "two", rate=7)
    made = frames.ClipFrames(open_store(work / "store"), videos)
    with pytest.raises(FramesUnseen, match="has no frame 8, but the store holds its tokens"):
        made.jpeg("train/one.mp4", 8)
    with pytest.raises(FramesUnseen, match="is not the video of the store: frame 3 is at tick"):
        made.jpeg("val/two.mp4", 3)
    made.close()


def test_frames_are_decoded_ahead_and_old_ones_forgotten(work, monkeypatch):
    monkeypatch.setattr(frames, "RUN", 3)
    monkeypatch.setattr(frames, "RUNS_OF_CLIP", 0)
    monkeypatch.setattr(frames, "KEPT_BYTES", 1)
    made = frames.ClipFrames(open_store(work / "store"), work / "videos")
    with pytest.raises(UsageError, match="has frames 0 to 9, not 10"):
        made.jpeg("train/one.mp4", 10)  # it does not count as the first
    one = made.jpeg("train/one.mp4", 0)
    made._ahead.submit(lambda: None).result()
    assert len(made._kept) == 1
    made.jpeg("train/one.mp4", 1)
    made._ahead.submit(lambda: None).result()
    assert len(made._kept) == 6  # 0 to 5
    reads = []
    monkeypatch.setattr(made, "read", lambda *given, **options: reads.append(given))
    assert made.jpeg("train/one.mp4", 0) == one
    made.jpeg("train/one.mp4", 5)
    made._ahead.submit(lambda: None).result()
    assert reads == [("train/one.mp4", [6, 7, 8])]
    made.close()


def test_the_rest_of_a_clip_is_decoded_while_nobody_asks_as_far_as_runs_go(work, monkeypatch):
    monkeypatch.setattr(frames, "RUN", 2)
    for number, wanted in ((1, {0, 1, 6, 7, 8, 9}), (9, set(range(10)))):
        monkeypatch.setattr(frames, "RUNS_OF_CLIP", number)
        made = frames.ClipFrames(open_store(work / "store"), work / "videos")
        made.jpeg("train/one.mp4", 7)
        made.jpeg("train/one.mp4", 6)
        for _ in range(6):  # a run is begun before the one that it follows has ended
            made._ahead.submit(lambda: None).result()
        assert {frame for _, _, frame in made._kept} == wanted
        made.close()


def test_the_frame_asked_for_longest_ago_is_forgotten_first(work, monkeypatch):
    monkeypatch.setattr(frames, "RUN", 1)  # two frames stay whatever their size
    monkeypatch.setattr(frames, "KEPT_BYTES", 1)
    made = frames.ClipFrames(open_store(work / "store"), work / "videos")
    monkeypatch.setattr(made, "_read_ahead", lambda *_: None)
    image = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(made, "read", lambda _, numbers, view: dict.fromkeys(numbers, image))
    for number in (0, 1, 0, 2):
        made.jpeg("train/one.mp4", number)
    assert [frame for _, _, frame in made._kept] == [0, 2]
    made.close()


def values(answer, *shape):
    return np.frombuffer(base64.b64decode(answer["data"]), np.uint8).reshape(shape)


def test_colours_of_the_store_are_the_same_in_every_clip_and_tell_objects_apart(server):
    words = {"block": 0, "first": 2, "count": 3}
    for kind in ("pca", "pca-store"):
        answer = get(server, "api/overlay", clip="train/one.mp4", kind=kind, **words)
        colours = values(answer, 3, 64, 3).astype(int)
        assert answer["first"] == 2
        disc = scene.patch_at(*scene.centre("one", 3))
        square = scene.patch_at(*scene.centre("one", 3, scene.BLUE))
        assert np.abs(colours[1, disc] - colours[1, square]).max() > 60
    other = get(server, "api/overlay", clip="val/two.mp4", kind="pca-store", **words)
    there = values(other, 3, 64, 3).astype(int)
    assert np.abs(there[1, 63] - colours[1, 63]).max() < 40  # grey in both


def test_colours_of_the_store_are_fitted_once_and_are_not_those_of_a_clip(work):
    made = Explorer(open_store(work / "store"), frames=None)
    one, two = "train/one.mp4", "val/two.mp4"
    for clip, kind in ((one, "pca"), (one, "pca-store"), (two, "pca-store")):
        made.overlay(clip, kind=kind, block=0, view=0, first=0, count=1)
    assert list(made._axes) == [(one, 0, 0), (None, 0, 0)]


def test_norms_are_from_the_least_to_the_greatest_of_the_clip(server, work):
    words = {"clip": "train/one.mp4", "block": 5, "first": 0, "count": 10}
    answer = get(server, "api/overlay", kind="norm", **words)
    tokens = open_store(work / "store").read("train/one.mp4").decode(5)
    norms = np.linalg.norm(tokens, axis=-1)
    assert answer["low"] == pytest.approx(float(norms.min()), rel=1e-5)
    shares = (norms - norms.min()) / (norms.max() - norms.min())
    assert np.abs(values(answer, 10, 64) / 255 - shares).max() < 0.003
    status, _, body = ask(server, "api/overlay", kind="x", **words)
    assert (status, "none of pca" in body.decode()) == (404, True)


def test_similarity_along_the_clip_and_in_other_clips(server):
    patch = scene.patch_at(*scene.centre("one", 3))
    clicks = json.dumps([["train/one.mp4", 3, str(patch), True]])
    words = {"clip": "train/one.mp4", "block": 0, "clicks": clicks}
    along = get(server, "api/along", **words)
    assert along["best"][3] == pytest.approx(1, abs=1e-6)
    assert along["high"] == pytest.approx(1, abs=1e-6)
    assert along["patches"][3] == patch
    assert values(along, 10, 64)[3, patch] == 255
    for frame, best in enumerate(along["patches"]):
        rows, columns = scene.pixels_of(best)
        assert scene.is_red(scene.draw("one", frame)[rows, columns]).mean() > 0.5
    status, headers, body = ask(server, "api/similar", **words)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    last = json.loads(body.decode().splitlines()[-1])
    assert last["done"] == last["frames"] == 40
    assert {one["clip"] for one in last["patches"]} == {
        "train/three.mp4",
        "val/two.mp4",
        "val/four.mp4",
    }


@pytest.mark.parametrize(
    ("clicks", "words"),
    [
        ("x", "clicks are not JSON"),
        ("[]", "clicks: a list of"),
        ("{}", "clicks: a list of"),
        ("[" * 100_00, "clicks are not JSON"),
        ('[["train/one.mp4", 0, "1"]]', "is not [clip, frame, patch, is_positive]"),
        ('[["train/one.mp4", 0, "x", true]]', "patch 'x'"),
        ('[["train/one.mp4", 99, "1", true]]', "has frames 0 to 9"),
        ('[["train/one.mp4", 0, "1", false]]', "no positive patch"),
    ],
)
def test_clicks_that_mean_nothing_are_refused(server, clicks, words):
    for path in ("api/along", "api/similar"):
        status, _, body = ask(server, path, clip="train/one.mp4", block=0, clicks=clicks)
        assert status == 404
        assert words in json.loads(body)["error"]


def test_a_run_gives_distances_phases_alignment_and_attention(server, run):
    from tokenreel.cache.embeddings import read_embeddings

    clips = {clip.clip_id: clip for clip in read_embeddings(run / "embeddings.h5").clips}
    assert get(server, "api/store")["runs"] == [{"name": "run", "attends": True}]
    own, two = clips["train/one.mp4"].embeddings, clips["val/two.mp4"].embeddings
    words = {"run": 0, "clip": "train/one.mp4"}
    near = get(server, "api/near", frame=4, **words)
    wanted = np.linalg.norm(own - own[4], axis=1)
    assert near["distances"] == pytest.approx(wanted.tolist(), abs=1e-3)
    found = {one["clip"]: one for one in near["nearest"]}
    assert set(found) == set(clips) - {"train/one.mp4"}
    distances = np.linalg.norm(two - own[4], axis=1)
    assert found["val/two.mp4"]["distance"] == pytest.approx(float(distances.min()), abs=1e-3)
    assert [one["distance"] for one in near["nearest"]] == sorted(
        one["distance"] for one in near["nearest"]
    )
    phases = get(server, "api/phases", **words)
    assert phases["labels"] == [0] * 5 + [1] * 5
    assert set(phases["predicted"]) <= {0, 1}
    right = np.mean(np.array(phases["predicted"]) == phases["labels"])
    assert phases["right"] == pytest.approx(float(right))
    shares = fit_probes(list(clips.values()))[""].probabilities(own)
    assert phases["probability"] == pytest.approx(shares.max(axis=1).tolist(), abs=1e-4)
    aligned = get(server, "api/align", other="val/two.mp4", **words)
    assert (aligned["matches"][0], aligned["matches"][-1]) == (0, 9)
    assert aligned["matches"] == sorted(aligned["matches"])
    entities = np.array(get(server, "api/attention", frame=4, **words)["entities"])
    assert entities.shape == (3, 8, 8)
    assert 0 <= entities.min() <= entities.max() <= 1
    assert ask(server, "api/near", run=1, clip="train/one.mp4", frame=0)[0] == 404
    assert ask(server, "api/near", frame=10, **words)[0] == 404
    assert ask(server, "api/attention", frame=10, **words)[0] == 404


def test_the_attention_of_the_clips_made_last_is_kept(work, run, monkeypatch):
    made = []

    def attend(path, store, clips, *, device):
        made.extend(clips)
        return [SimpleNamespace(weights=np.ones((scene.FRAMES, 3, 8, 8), np.float32))]

    monkeypatch.setattr("tokenreel.fuse.embed.attend.attend", attend)
    monkeypatch.setattr(runs, "MOST_ATTENTIONS", 2)
    shown = runs.ExploredRun(run, open_store(work / "store"))
    one, two, three = "train/one.mp4", "val/two.mp4", "train/three.mp4"
    for clip in (one, two, three, three, two, one):
        shown.attention(clip, 4)
    assert made == [one, two, three, one]


def test_a_run_of_another_backbone_is_refused_with_the_fields(run, tmp_path):
    with pytest.raises(WrongIdentity, match="architecture"):
        serve_store(write_store(tmp_path / "other"), [run], port=0)


def test_a_run_that_is_none_or_not_finished_is_refused(work, tmp_path, run):
    with pytest.raises(UsageError, match="nowhere is no run"):
        serve_store(work / "store", [tmp_path / "nowhere"], port=0)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "embeddings.h5").unlink()
    with pytest.raises(UsageError, match="type its `fuse train` again"):
        serve_store(work / "store", [unfinished], port=0)


def test_a_run_of_several_stores_is_refused_by_their_names(work, tmp_path, run):
    other = shutil.copytree(run, tmp_path / "several")
    provenance = json.loads((other / "run.json").read_bytes())
    provenance["stores"] = {"spatial": {}, "temporal": {}}
    (other / "run.json").write_text(json.dumps(provenance))
    with pytest.raises(UsageError, match="reads the stores spatial, temporal, one is shown here"):
        serve_store(work / "store", [other], port=0)


def test_runs_of_one_name_are_named_by_their_paths_and_one_given_twice_is_shown_once(
    work, tmp_path, run
):
    other = shutil.copytree(run, tmp_path / "else" / run.name)
    with serving(work / "store", [run, other, run.parent / "." / run.name]) as two:
        names = [one["name"] for one in get(two, "api/store")["runs"]]
    assert names == [str(run.resolve()), str(other.resolve())]


def test_two_explorers_on_one_port_are_one_and_a_sentence(server, work):
    port = urlsplit(server.url).port
    with pytest.raises(UsageError, match=f"port {port} is taken, perhaps by another explorer"):
        serve_store(work / "store", port=port)
    with pytest.raises(UsageError, match="no such clip"):
        serve_store(work / "store", port=0, clip="nothing")


def test_a_store_without_tokens_is_refused(tmp_path):
    write_pixel_store(tmp_path / "s", {"train0": 2})
    with pytest.raises(UsageError, match=r"keeps no tokens, only bytes \(pixels\)"):
        serve_store(tmp_path / "s", port=0)


def test_a_port_for_which_rights_lack_is_a_sentence(work, monkeypatch):
    def bind(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(UsageError, match="name one above 1023"):
        command.take_port(80)


def test_a_store_without_videos_cls_and_phases_is_shown_and_a_line_says_why(tmp_path):
    actions = ("act", "lift")
    store = write_store(tmp_path / "s", cls=False, views=2, labelled=False, actions=actions)
    with serving(store) as server:
        assert "train0.mp4" in server.unseen_reason
        about = get(server, "api/store")
        assert about["has_cls"] is False
        assert about["views"] == ["clean", "view1"]
        assert get(server, "api/clips")["num_clips"] == 7
        assert get(server, "api/clips", action="lift")["num_clips"] == 3
        for view in (0, 1):
            status, _, body = ask(server, "frame", clip="val1", frame=0, view=view)
            assert status == 404
            wanted = ("val1.mp4", "does not say how view 1 of its backbone")[view]
            assert wanted in json.loads(body)["error"]
            words = {"clip": "val1", "block": 3, "view": view}
            get(server, "api/overlay", kind="norm", first=0, **words)
            get(server, "api/along", clicks='[["train0", 0, "1", true]]', **words)
        status, _, body = ask(
            server, "api/along", clicks='[["train0",0,"1",true]]', clip="val1", block=3, view=2
        )
        assert (status, "has views 0 to 1" in body.decode()) == (404, True)


def test_searches_keep_codes_as_far_as_the_memory_that_is_given_goes(work, monkeypatch):
    words = {"clip": "val/two.mp4", "block": 0, "clicks": '[["val/two.mp4", 0, "3", true]]'}
    read, names = search.read_chunk, []

    def read_chunk(store, clips, *given, **options):
        names.extend(clips)
        return read(store, clips, *given, **options)

    monkeypatch.setattr(search, "read_chunk", read_chunk)
    for memory_bytes, times in ((2**30, 1), (0, 2)):
        names.clear()
        with serving(work / "store", root=work / "videos", memory_bytes=memory_bytes) as server:
            answers = [ask(server, "api/similar", **words)[2].splitlines()[-1] for _ in range(2)]
        found, again = (json.loads(answer)["patches"] for answer in answers)
        assert found == again
        assert len(names) == 4 * times


def test_a_damaged_clip_is_told_and_the_others_are_shown(work, tmp_path):
    path = shutil.copytree(work / "store", tmp_path / "store")
    shard = path / folder_of(clip_key("train/one.mp4")) / "views/0/tokens/0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 255  # of the first frame
    shard.write_bytes(data)
    words = {"block": 0, "first": 0, "count": 1}
    with serving(path, root=work / "videos") as server:
        get(server, "api/overlay", clip="val/two.mp4", kind="pca-store", **words)
        status, _, body = ask(server, "api/overlay", clip="train/one.mp4", kind="pca", **words)
        assert (status, "is damaged" in json.loads(body)["error"]) == (500, True)
        clicks = '[["val/two.mp4", 0, "3", true]]'
        _, _, body = ask(server, "api/similar", clip="val/two.mp4", block=0, clicks=clicks)
        last = json.loads(body.decode().splitlines()[-1])
        assert [sentence.partition(":")[0] for sentence in last["left_out"]] == ["train/one.mp4"]
        assert {one["clip"] for one in last["patches"]} == {"train/three.mp4", "val/four.mp4"}


def test_the_command_prints_the_address_and_ends_with_ctrl_c(work, monkeypatch):
    def interrupted(self):
        self.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(command.Serving, "run", interrupted)
    monkeypatch.setattr(command, "compile_loops", lambda: True)  # in a thread of its own
    words = ["explore", str(work / "store"), "--port", "0", "--clip", "two", "--root", "nowhere"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("without frames: nowhere/val/two.mp4: ")
    assert lines[0].endswith("(--root names the videos)")
    assert lines[1].startswith("open http://127.0.0.1:")
    assert lines[1].endswith("/#clip=val%2Ftwo.mp4")


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys, work):
    from tokenreel.pipeline.cli import console

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "tokenreel.pipeline.explore.command")
    monkeypatch.setattr(sys, "argv", ["tokenreel", "explore", str(work / "store")])
    with pytest.raises(SystemExit) as end:
        console.run_app(app)
    assert end.value.code == 2
    assert "pip install 'tokenreel[explore]'" in capsys.readouterr().err
