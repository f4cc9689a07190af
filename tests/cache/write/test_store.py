"""Writer and reader: what is written is read, by us and by the libraries; damage is refused."""

import importlib.util
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from tokenreel.cache.errors import ClipNotFound, Damaged, StoreNotFound, WrongIdentity
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.store_files import read_failures, record_failure
from tokenreel.cache.read.store_reader import Request, open_store
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
_spec = importlib.util.spec_from_file_location("stores", Path(__file__).parents[1] / "stores.py")
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)


@pytest.fixture
def store(tmp_path):
    path = stores.make_store(tmp_path / "s", views=2)
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a/1", 70)
        stores.write_clip(writer, "v/2", 130, batch=65)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize(
    "codec", ["fp16", "int8", "int4", "pool2+int8", "pca:4+int8", "pca:8+int4"]
)
@pytest.mark.parametrize("frames", [1, 63, 64, 65, 129])
def test_what_is_written_is_read_back(tmp_path, codec, frames):
    path = stores.make_store(tmp_path / "s", codec)
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", frames)
    reader = open_store(path)
    tokens = reader.read("a")
    for block in stores.BLOCKS:
        wanted = stores.expected(*stores.make_identity(codec), "a", block, frames)
        np.testing.assert_array_equal(tokens.codes[block], wanted.codes)
        if wanted.scales is not None:
            np.testing.assert_array_equal(tokens.scales[block], wanted.scales)
        assert tokens.decode(block).dtype == np.float32
    assert reader.labels("a").tolist() == [i % 2 for i in range(frames)]
    assert reader.times_seconds("a")[-1] == pytest.approx((frames - 1) / 25)
    assert reader.frame_index("a").tolist() == list(range(0, 2 * frames, 2))
    assert reader.read_cls("a").shape == (frames, stores.DIM)
    assert verify_store(path, deep=True).problems == ()


@pytest.mark.parametrize("placement", ["disk", "memory"])
def test_the_direct_reader_equals_tensorstore_for_any_frames(store, placement):
    direct, reference = (
        open_store(store, placement=placement),
        open_store(store, backend="tensorstore"),
    )
    rng = np.random.default_rng(0)
    for frames in ([0], [129, 0, 64, 64, 63], slice(60, 70), rng.integers(0, 130, 50), []):
        for view in (0, 1):
            got = direct.read("v/2", frames, view=view, blocks=(3,))
            want = reference.read("v/2", frames, view=view, blocks=(3,))
            np.testing.assert_array_equal(got.codes[3], want.codes[3])
            every = stores.expected(*stores.make_identity("int8", 2), "v/2", 3, 130, view)
            rows = np.arange(130)[frames] if isinstance(frames, slice) else np.array(frames, int)
            np.testing.assert_array_equal(got.codes[3], every.codes[rows])


def test_zarr_and_tensorstore_open_every_array(store):
    opened = 0
    for meta in store.rglob("zarr.json"):
        if b'"array"' not in meta.read_bytes():
            zarr.open_group(meta.parent, mode="r")
            continue
        ours = zarr.open_array(meta.parent, mode="r")
        kvstore = {"driver": "file", "path": f"{meta.parent}/"}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
        np.testing.assert_array_equal(ours[:], theirs.read().result())
        opened += 1
    assert opened > 40
    group = zarr.open_group(store, mode="r")[folder_of(clip_key("a/1"))]
    want = open_store(store).read("a/1").codes[1]
    np.testing.assert_array_equal(group["views/0/tokens/1"][:], want)


def test_a_given_buffer_is_filled_and_a_wrong_one_refused(store):
    out = {1: np.zeros((5, 16, 16), np.int8)}
    tokens = open_store(store).read("a/1", slice(0, 5), blocks=[1], out=out)
    assert tokens.codes[1] is out[1]
    assert out[1].any()
    with pytest.raises(ValueError, match="wanted contiguous"):
        open_store(store).read("a/1", slice(0, 4), blocks=[1], out=out)


def test_blocks_are_read_under_their_former_name_with_a_warning(store):
    with pytest.warns(FutureWarning, match="is now blocks="):
        assert list(open_store(store).read("a/1", [0], layers=[3]).codes) == [3]


def test_what_the_store_does_not_have_is_named(store, tmp_path):
    reader = open_store(store)
    for arguments, words in (
        ({"clip_id": "no"}, "no clip 'no'"),
        ({"clip_id": "a/1", "frames": [70]}, "frames 0 to 69"),
        ({"clip_id": "a/1", "frames": [-1]}, "frames 0 to 69"),
        ({"clip_id": "a/1", "blocks": [2]}, "no block"),
        ({"clip_id": "a/1", "view": 2}, "view 2"),
    ):
        with pytest.raises(ClipNotFound, match=words):
            reader.read(**arguments)
    with pytest.raises(StoreNotFound, match="no token store"):
        open_store(tmp_path / "none")
    with pytest.raises(WrongIdentity, match="codec"):
        open_store(store, expect=stores.make_identity("fp16", 2)[0])


def test_records_are_selected_and_rebuilt_without_the_log(store):
    before = open_store(store)
    assert [record.clip_id for record in before.select("val")] == ["v/2"]
    shutil.rmtree(store / "manifest")
    assert open_store(store).records == before.records


def test_a_killed_writers_segments_are_taken_over_and_the_bytes_are_the_same(store, tmp_path):
    path = stores.make_store(tmp_path / "t", views=2)
    with StoreWriter(path, writer_id="k") as writer:
        clip = stores.begin(writer, "v/2")
        stores.append(writer, clip, "v/2", 100)
        clip.suspend()
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "v/2")
        assert clip.resume_frames == 64
        clip.suspend()
        stores.write_clip(writer, "v/2", 130)
    here, there = (root / folder_of(clip_key("v/2")) for root in (path, store))
    assert files(here) == files(there)


def test_a_damaged_segment_of_a_killed_writer_is_written_again(tmp_path):
    path = stores.make_store(tmp_path / "t")
    with StoreWriter(path, writer_id="k") as writer:
        clip = stores.begin(writer, "v/2")
        stores.append(writer, clip, "v/2", 140)
        clip.suspend()
    [left] = (path / "clips").glob("*/.tmp-*")
    shards = sorted((left / "views/0/tokens/1/c").rglob("*"))
    second = [shard for shard in shards if shard.is_file()][1]
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    with StoreWriter(path, writer_id="w") as writer:
        assert stores.begin(writer, "v/2").resume_frames == 64


def test_truncation_deletion_and_swaps_are_detected(store):
    one, two = (store / folder_of(clip_key(name)) for name in ("a/1", "v/2"))
    shard = "views/0/tokens/{}/c/0/0/0"
    small = "views/0/scale/{}/c/0/0"
    for first, second in (
        (one / shard.format(1), two / shard.format(1)),
        (one / shard.format(1), one / shard.format(3)),
        (one / small.format(1), one / small.format(3)),
        (one / small.format(1), two / small.format(1)),
    ):
        keep = first.read_bytes(), second.read_bytes()
        for change in ("swap", "truncate", "delete"):
            if change == "swap":
                first.write_bytes(keep[1]), second.write_bytes(keep[0])
            elif change == "truncate":
                first.write_bytes(keep[0][:-7])
            else:
                first.unlink()
            with pytest.raises(Damaged):
                open_store(store).read("a/1")
            assert "a/1" in verify_store(store, deep=True).repair
            first.write_bytes(keep[0]), second.write_bytes(keep[1])
    shutil.rmtree(one)
    assert verify_store(store).repair == ("a/1",)


def test_links_out_of_the_store_are_refused(store, tmp_path):
    folder = store / folder_of(clip_key("a/1"))
    shutil.move(folder, tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(Damaged, match="refused"):
        open_store(store)
    assert verify_store(store).problems


def test_a_failed_commit_leaves_nothing_committed(tmp_path):
    path = stores.make_store(tmp_path / "s")
    with StoreWriter(path, writer_id="w") as writer:
        clip = stores.begin(writer, "a")
        stores.append(writer, clip, "a", 5)
        with pytest.raises(ValueError, match="have"):
            clip.commit(*[np.zeros(4, int)] * 4)
        clip.abort()
        assert not writer.is_committed("a")
    assert open_store(path).records == {}
    assert not list((path / "clips").rglob(".tmp-*"))


def test_failures_count_their_attempts_and_go_when_the_clip_is_committed(tmp_path):
    path = stores.make_store(tmp_path / "s")
    for _ in range(2):
        record_failure(path, "a", stage="decode", reason="torn", details={"frame": 3})
    assert read_failures(path)[0]["attempts"] == 2
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 3)
    assert read_failures(path) == []


def test_another_identity_is_refused(store):
    with pytest.raises(WrongIdentity, match=r"codec\.name"):
        stores.make_store(store, "fp16", 2)


def _read_in_child(store, queue):
    queue.put(int(store.read("a/1").codes[1].astype(int).sum()))


def test_an_identity_without_its_fields_is_told_in_a_line(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(
        Damaged, match=r": recipe\.json is damaged: architecture: Field req"
    ) as told:
        open_store(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.timeout(600)
def test_an_open_store_works_in_workers(store, method):
    reader = pickle.loads(pickle.dumps(open_store(store)))
    requests = [Request("a/1"), Request("v/2", [5, 4])]
    tokens = reader.read_many(requests, threads=2)
    assert len(tokens[1].codes[1]) == 2
    pickle.dumps(reader)
    if method == "spawn":
        return  # the child would have to import this module; pickling is what spawn needs
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(reader, queue))
    child.start()
    assert queue.get(timeout=300) == int(tokens[0].codes[1].astype(int).sum())
    child.join()
