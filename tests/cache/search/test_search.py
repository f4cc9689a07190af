"""A search by patch gives what float64 on decoded tokens gives, from codes."""

import shutil
import weakref

import numpy as np
import pytest

from tests.cache import stores
from tokenreel.cache.codec import Encoded, calibrate, codec_from_identity, codec_identity
from tokenreel.cache.errors import ClipNotFound, UsageError
from tokenreel.cache.format.clip import clip_key, folder_of
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.search import chunks, loops, search
from tokenreel.cache.search.query import Click, patch_numbers, query_direction
from tokenreel.cache.search.ranking import Candidates, Ranking
from tokenreel.cache.search.scores import Direction, measure_lengths, unit_rows
from tokenreel.cache.search.search import (
    PatchIndex,
    num_processors,
    search_store,
    similar_patches,
)
from tokenreel.cache.write.store_writer import StoreWriter

BLOCK, GRID, DIM = 3, (4, 4), 16
LENGTHS = {"a": 9, "b": 5, "c": 1, "d": 7, "e": 9}


def tokens_of(name):
    """Tokens (T, 16, 16) of a clip: `e` has those of `a`, `d` is far from the mean, `c` is flat."""
    rng = np.random.default_rng({"a": 0, "b": 1, "c": 2, "d": 3, "e": 0}[name])
    tokens = rng.standard_normal((LENGTHS[name], 16, DIM)).astype(np.float32) + 1
    if name == "d":
        tokens = tokens * 40 - 300
    if name == "c":
        tokens[:, 3:] = tokens[:, :1]
    return tokens


@pytest.fixture(scope="module")
def store_of(tmp_path_factory):
    """A store by each codec, made once."""
    made = {}

    def make(codec):
        if codec not in made:
            sample = {BLOCK: np.concatenate([tokens_of("a"), tokens_of("b")])}
            calibration = calibrate(codec, sample, grid=GRID)
            identity = StoreIdentity(
                architecture="tiny",
                weights_sha256="0" * 64,
                blocks=(BLOCK,),
                grid=GRID,
                dim=DIM,
                image_size=(64, 64),
                transform={"name": "t"},
                frames={"policy": "all"},
                views=({"name": "clean"},),
                codec=codec_identity(codec, calibration),
                cls="none",
            )
            path = tmp_path_factory.mktemp("store") / "s"
            create_store(path, identity, made_with={"numpy": "any"}, calibration=calibration)
            with StoreWriter(path, writer_id="w") as writer:
                for name, length in LENGTHS.items():
                    clip = stores.begin(writer, name)
                    encoded = writer.codec.encode(tokens_of(name), block=BLOCK, grid=GRID)
                    clip.append(0, {BLOCK: encoded}, {}, None)
                    count = np.arange(length)
                    clip.commit(count, count * 2, count % 2, np.zeros(length, np.uint8))
            made[codec] = path
        return open_store(made[codec])

    return make


def decoded(store, clip):
    """Tokens in float64: the codes by the terminal, the rotation in float64."""
    read = store.read(clip, blocks=[BLOCK]).encoded(BLOCK)
    values = store.codec.terminal.decode(read, block=BLOCK).astype(np.float64)
    rotation = store.codec.rotation(BLOCK)
    return (
        values
        if rotation is None
        else np.matmul(values[:, :, None], rotation.astype(np.float64))[:, :, 0]
    )


def reference(store, unit):
    """Every patch with its cosine in float64, in the order of the result."""
    rows = []
    for clip in sorted(store.records):
        tokens = decoded(store, clip)
        lengths = np.sqrt((tokens**2).sum(-1))
        scores = (tokens * unit).sum(-1) / lengths
        rows += [(-float(scores[place]), clip, *place) for place in np.ndindex(scores.shape)]
    return [(clip, frame, patch, -score) for score, clip, frame, patch in sorted(rows)]


def as_rows(found):
    return [(one.clip_id, one.frame, one.patch, one.score) for one in found]


@pytest.mark.parametrize(
    "codec", ["int8", "fp16", "int4", "pca:6+int8", "pca:6", "pool2+int8", "mean"]
)
def test_the_best_are_those_of_float64_on_decoded_tokens(store_of, codec, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 700)
    store = store_of(codec)
    click = Click("a", 4, 0)
    wanted = reference(store, query_direction(store, [click], block=BLOCK))
    for count in (1, 20, 100):
        found = search_store(store, [click], count=count)
        assert as_rows(found.patches) == wanted[:count]
        best = {}
        for clip, *rest in wanted:
            best.setdefault(clip, (clip, *rest))
        assert as_rows(found.of_clips) == list(best.values())
    assert found.is_complete
    assert found.num_done == sum(LENGTHS.values())
    top = [row[:3] for row in wanted[:2]]
    assert top == [("a", 4, 0), ("e", 4, 0)]  # equal tokens: by clip


def test_decoded_tokens_are_those_that_the_store_reads(store_of):
    store = store_of("int8")
    read = store.read("a", blocks=[BLOCK]).decode(BLOCK)
    assert np.array_equal(decoded(store, "a"), read.astype(np.float64))
    store = store_of("pca:6+int8")
    read = store.read("a", blocks=[BLOCK]).decode(BLOCK)
    assert np.allclose(decoded(store, "a"), read, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("codec", ["int8", "fp16", "int4", "pca:6+int8", "pca:6"])
def test_a_cosine_from_codes_is_within_its_bound_of_float64(store_of, codec):
    store = store_of(codec)
    for clip in LENGTHS:
        encoded = store.read(clip, blocks=[BLOCK]).encoded(BLOCK)
        lengths = measure_lengths(store.codec, encoded, block=BLOCK)
        unit = query_direction(store, [Click("b", 0, 5)], block=BLOCK)
        direction = Direction(store.codec, BLOCK, unit)
        tokens = decoded(store, clip)
        exact = (tokens * unit).sum(-1) / np.sqrt((tokens**2).sum(-1))
        error = np.abs(direction.cosines(encoded, lengths) - exact)
        assert (error <= lengths.slack).all()
        assert lengths.slack.max() < 1e-3
        frames, patches = np.nonzero(np.ones_like(exact, bool))
        assert np.array_equal(direction.exact(encoded, frames, patches).reshape(exact.shape), exact)


def test_tokens_that_are_zero_or_too_small_for_float32_are_computed_exactly():
    calibration = {"mean/1": np.zeros(4, np.float32), "sd/1": np.full(4, 1e-6, np.float32)}
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    codes = np.array([[[0, 0, 0, 0], [1, 2, 3, 4], [4, 3, 2, 1]]], np.int8)
    encoded = Encoded(codes, np.array([[1, 1e-16, 1]], np.float32))
    lengths = measure_lengths(codec, encoded, block=1)
    assert lengths.inverse[0, :2].tolist() == [0, 0]
    assert lengths.slack[0, :2].tolist() == [2, 2]
    direction = Direction(codec, 1, np.array([1.0, 0, 0, 0]))
    found = direction.exact(encoded, np.zeros(3, np.int64), np.arange(3))
    assert found == pytest.approx([0, 1 / 30**0.5, 4 / 30**0.5], rel=1e-6)


def test_cosines_that_float32_cannot_tell_apart_are_ordered_as_float64_does():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(64).astype(np.float32)
    calibration = {"mean/1": mean, "sd/1": np.ones(64, np.float32)}
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    codes = np.broadcast_to(rng.integers(-9, 9, 64, np.int8), (40, 16, 64)).copy()
    scales = (0.05 + 1e-8 * rng.permutation(640)).reshape(40, 16).astype(np.float32)
    plan = [[chunks.Span(0, start, start + 8)] for start in range(0, 40, 8)]

    def read(spans):
        part = slice(spans[0].start, spans[0].stop)
        return chunks.Chunk.of(Encoded(codes[part], scales[part]), spans, {})

    tokens = codec.decode(Encoded(codes, scales), block=1).astype(np.float64)
    lengths = np.sqrt((tokens**2).sum(-1))
    index = PatchIndex(codec, 1, ["a"], plan, read, memory_bytes=10**6)
    for _ in range(40):
        unit = unit_rows(rng.standard_normal((1, 64)))[0]
        exact = (tokens * unit).sum(-1) / lengths
        assert np.ptp(exact) < 1e-4
        wanted = sorted((-score, place) for place, score in enumerate(exact.reshape(-1).tolist()))
        for count in (1, 30):
            found = index.search(unit, count=count).patches
            places = [one.frame * 16 + one.patch for one in found]
            assert places == [place for _, place in wanted[:count]]


def test_equal_scores_are_ordered_by_clip_then_frame_and_too_few_exclude_nothing():
    ranking = Ranking(4, 3)
    places = np.array([[1, 0, 0], [0, 5, 1], [0, 5, 0]])
    ranking.add(Candidates(np.full(3, 0.5), *places.T))
    assert ranking.threshold == -np.inf
    best = ranking.best
    rows = zip(best.clips.tolist(), best.frames.tolist(), best.patches.tolist(), strict=True)
    assert list(rows) == [(0, 5, 0), (0, 5, 1), (1, 0, 0)]
    ranking.add(Candidates(np.array([0.1]), *np.array([[2, 0, 0]]).T))
    assert ranking.threshold == 0.1


def test_compiled_loops_find_the_same(store_of, monkeypatch):
    pytest.importorskip("numba")
    store = store_of("int8")
    plain = search_store(store, [Click("d", 2, 7)]).patches
    monkeypatch.setattr(loops, "_compiled", [])
    assert loops.compile_loops()
    calls, compiled = [], loops._compiled[0]
    monkeypatch.setattr(loops, "_compiled", [lambda *given: (calls.append(1), compiled(*given))])
    assert search_store(store, [Click("d", 2, 7)]).patches == plain
    assert calls


def test_a_box_counts_as_the_mean_of_its_tokens_and_negatives_are_subtracted(store_of):
    store = store_of("int8")
    box = decoded(store, "b")[2, [5, 6, 9, 10]].mean(axis=0)
    not_like = decoded(store, "d")[0, 3]
    unit = box / np.linalg.norm(box) - not_like / np.linalg.norm(not_like)
    unit /= np.linalg.norm(unit)
    found = similar_patches(
        store, "b", 2, (1, 1, 2, 2), BLOCK, more=[Click("d", 0, (0, 3), is_positive=False)]
    )
    wanted = reference(store, unit)
    assert [one.score for one in found] == pytest.approx(
        [row[3] for row in wanted[:100]], abs=1e-12
    )
    assert [(one.clip_id, one.frame, one.patch) for one in found[:30]] == [
        row[:3] for row in wanted[:30]
    ]


def test_a_first_answer_comes_before_all_is_read_and_the_last_is_of_all(store_of, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 300)
    store = store_of("int8")
    unit = query_direction(store, [Click("a", 0, 0)], block=BLOCK)
    index = PatchIndex.of_store(store, block=BLOCK)
    first, *_, last = index.refine(unit, first_seconds=0.0)
    assert 0 < first.num_done < first.num_frames
    assert not first.is_complete
    assert last == index.search(unit).__class__(
        **{**vars(index.search(unit)), "seconds": last.seconds}
    )
    assert "GB/s" in last.speed


def test_chunks_stay_in_memory_while_there_is_room(store_of, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 300)
    store = store_of("int8")
    unit = query_direction(store, [Click("a", 0, 0)], block=BLOCK)
    streamed = PatchIndex.of_store(store, block=BLOCK)
    some = PatchIndex.of_store(store, block=BLOCK, memory_bytes=2000)
    whole = PatchIndex.of_store(store, block=BLOCK, memory_bytes=10**6)
    whole.load()
    assert whole.is_in_memory
    wanted = streamed.search(unit).patches
    assert some.search(unit).patches == wanted
    monkeypatch.setattr(type(store), "read", None)
    assert whole.search(unit).patches == wanted
    assert not streamed.is_in_memory
    assert not some.is_in_memory
    assert 0 < sum(held.chunk.nbytes + held.lengths.nbytes for held in some._held.values()) <= 2000


def test_lengths_of_chunks_that_have_no_room_are_measured_once_unless_the_chunk_changes(
    monkeypatch,
):
    rng = np.random.default_rng(0)
    calibration = {"mean/1": np.zeros(64, np.float32), "sd/1": np.ones(64, np.float32)}
    codec = codec_from_identity(codec_identity("int8", calibration), calibration)
    codes = rng.integers(-99, 99, (40, 16, 64), np.int8)
    scales = [np.full((40, 16), 0.1, np.float32)]
    plan = [[chunks.Span(0, start, start + 8)] for start in range(0, 40, 8)]

    def read(spans):
        part = slice(spans[0].start, spans[0].stop)
        return chunks.Chunk.of(Encoded(codes[part], scales[-1][part]), spans, {})

    measured = []

    def measure(*given, **options):
        measured.append(given)
        return measure_lengths(*given, **options)

    monkeypatch.setattr(search, "measure_lengths", measure)
    unit = unit_rows(rng.standard_normal((1, 64)))[0]
    # Two chunks of 8192 codes with 512 bytes of scales and 1024 of lengths, and lengths of three.
    index = PatchIndex(codec, 1, ["a"], plan, read, memory_bytes=25_000)
    first = index.search(unit).patches
    assert (len(index._held), len(index._lengths), len(measured)) == (2, 3, 5)
    assert index.search(unit).patches == first
    assert len(measured) == 5
    scales.append(scales[0].copy())
    for place in index._lengths:  # other tokens, of other scales
        part = slice(8 * place, 8 * place + 8)
        codes[part] = rng.integers(-9, 9, (8, 16, 64), np.int8)
        scales[-1][part] = rng.uniform(1, 2, (8, 16))
    wanted = PatchIndex(codec, 1, ["a"], plan, read, memory_bytes=0).search(unit).patches
    assert wanted != first
    del measured[:]
    assert index.search(unit).patches == wanted
    assert len(measured) == 3


def test_a_streamed_search_holds_a_few_chunks_at_a_time(store_of, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)  # a frame each
    store = store_of("int8")
    index = PatchIndex.of_store(store, block=BLOCK)
    read, alive, counts = index._read, weakref.WeakSet(), []

    def counted(spans):
        chunk = read(spans)
        alive.add(chunk)
        counts.append(len(alive))
        return chunk

    monkeypatch.setattr(index, "_read", counted)
    unit = query_direction(store, [Click("a", 0, 0)], block=BLOCK)
    assert index.search(unit).is_complete
    assert len(counts) == sum(LENGTHS.values()) == 31
    assert max(counts) <= 3 * num_processors() + 1


def test_a_damaged_clip_is_left_out_by_name(store_of, tmp_path, caplog):
    path = shutil.copytree(store_of("int8").path, tmp_path / "s")
    shard = path / folder_of(clip_key("b")) / f"views/0/tokens/{BLOCK}/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    found = search_store(open_store(path), [Click("a", 0, 0)])
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("b: ")
    assert "b" not in {one.clip_id for one in found.of_clips}
    similar_patches(path, "a", 0, 0)
    assert "left out: b: " in caplog.text


@pytest.mark.parametrize(
    ("click", "block", "words"),
    [
        (("a", 0, 16), None, "patch 16: there are 0 to 15"),
        (("a", 0, (4, 0)), None, "rows are 0 to 3"),
        (("a", 0, (2, 2, 1, 3)), None, "first the upper left corner"),
        (("a", 0, 0), 11, "block 11: .* has blocks 3"),
    ],
)
def test_a_wrong_patch_or_block_is_refused(store_of, click, block, words):
    with pytest.raises(UsageError, match=words):
        similar_patches(store_of("int8"), *click, block)


def test_wrong_clips_frames_views_and_queries_are_refused(store_of):
    store = store_of("int8")
    with pytest.raises(ClipNotFound, match="has no clip 'x'"):
        similar_patches(store, "x", 0, 0)
    with pytest.raises(ClipNotFound, match="has frames 0 to 8"):
        similar_patches(store, "a", 9, 0)
    with pytest.raises(UsageError, match="has views 0 to 0"):
        similar_patches(store, "a", 0, 0, view=1)
    with pytest.raises(UsageError, match="no positive patch"):
        search_store(store, [Click("a", 0, 0, is_positive=False)])
    with pytest.raises(UsageError, match="cancel each other"):
        search_store(store, [Click("a", 0, 0), Click("e", 0, 0, is_positive=False)])
    with pytest.raises(UsageError, match="at least one"):
        search_store(store, [Click("a", 0, 0)], count=0)


def test_the_spans_of_chunks_are_every_frame_once():
    plan = chunks.plan_chunks([5, 0, 3, 700], chunks.CHUNK_BYTES // 64)
    seen = [
        (span.clip, f) for spans in plan for span in spans for f in range(span.start, span.stop)
    ]
    assert seen == [(clip, f) for clip, n in enumerate([5, 0, 3, 700]) for f in range(n)]
    assert max(sum(span.stop - span.start for span in spans) for spans in plan) == 64
    for count in range(1, 40):
        assert sorted(chunks.spread_order(count)) == list(range(count))


def test_a_box_is_its_patches_row_by_row():
    assert patch_numbers((1, 2), (3, 5)).tolist() == [7]
    assert patch_numbers((0, 3, 1, 4), (3, 5)).tolist() == [3, 4, 8, 9]
