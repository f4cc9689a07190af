"""FTP from clip maps and texts to scores of clips: both stages, resume, what is refused."""

import json
import logging

import numpy as np
import pytest
import torch

from tests.fuse.distributed.test_distributed import train_in_processes
from tests.fuse.systems.ftp.maps import ACTIONS, CHANNELS, action_of, small, write_maps, write_texts
from tokenreel.cache.embeddings import read_embeddings
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.pool_maps import pool_store
from tokenreel.fuse.config import OptimConfig
from tokenreel.fuse.embed.embed import embed_run
from tokenreel.fuse.runs.checkpoint import load_checkpoint
from tokenreel.fuse.runs.provenance import read_provenance
from tokenreel.fuse.systems.ftp import steps, system
from tokenreel.fuse.systems.ftp.config import AlignConfig
from tokenreel.fuse.train import run as run_module
from tokenreel.fuse.train.train import Job, train, train_together
from tokenreel.pipeline.phases.training import train_recipe

CPU = torch.device("cpu")
LAST = {"prompts": (), "stage": "classify"}  # stage 2 without processors


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_maps(tmp_path_factory.mktemp("maps") / "maps")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return str(write_texts(tmp_path_factory.mktemp("texts") / "texts.h5", tokens=True))


def run(config, store, out):
    return train(config, store=store, out=out, device="cpu", progress=False)


def weights(path):
    return load_checkpoint(path / "checkpoint.pt")["model"]


def of_prompt(path, prompt):
    """The bytes of the weights that stage 1 trains for a prompt."""
    return {
        name: value.numpy().tobytes()
        for name, value in weights(path).items()
        if name.split(".")[:2] in (["processors", prompt], ["alignments", prompt])
    }


def right(file, split="val"):
    clips = [clip for clip in file.clips if clip.split == split]
    return np.mean([clip.embeddings[0].argmax() == clip.targets.argmax() for clip in clips])


def test_both_stages_learn_the_actions_of_clips(store, texts, tmp_path):
    config = small(texts=texts, optim=small().optim.with_(epochs=25))
    path = run(config, store, tmp_path / "run").path
    file = read_embeddings(path / "embeddings.h5")
    assert (file.unit, file.class_names) == ("clip", ACTIONS)
    assert all(clip.embeddings.sum() == pytest.approx(1) for clip in file.clips)
    assert [clip.targets.tolist() for clip in file.clips[:2]] == [[1, 0], [0, 1]]
    assert right(file) == 1
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["align"] * 2 + ["classify"] * 25


def test_stage_2_leaves_the_processors_as_stage_1_made_them(store, texts, tmp_path):
    first = run(small(texts=texts, stage="align"), store, tmp_path / "align").path
    both = run(small(texts=texts), store, tmp_path / "both").path
    last = small(stage="classify", processors=(str(first),))
    alone = run(last, store, tmp_path / "classify").path
    for prompt in "AB":
        assert of_prompt(first, prompt) == of_prompt(both, prompt)
        assert all(
            value == of_prompt(first, prompt)[name]
            for name, value in of_prompt(alone, prompt).items()
        )
    unaligned = run(small(stage="classify", processors_aligned=False), store, tmp_path / "no").path
    assert not torch.equal(
        weights(unaligned)["processors.A.spatial.weight"],
        weights(alone)["processors.A.spatial.weight"],
    )


@pytest.mark.parametrize(
    "changes", [{}, {"text": "tokens"}, {"project": "text", "dropout": 0.3}], ids=str
)
def test_a_processor_has_the_same_bytes_alone_in_a_pair_and_in_four(store, tmp_path, changes):
    lacking = {("train1", "A"), ("train4", "A"), ("train5", "C")}
    texts = str(
        write_texts(tmp_path / "four.h5", prompts=tuple("ABCD"), lacking=lacking, tokens=True)
    )
    align = AlignConfig.model_validate(small().align.model_dump() | changes)
    config = small(texts=texts, stage="align", align=align, texts_lacking="leave_out")
    paths = {
        names: run(config.with_(prompts=tuple(names)), store, tmp_path / names).path
        for names in ("A", "C", "AB", "ABCD")
    }
    assert (
        of_prompt(paths["A"], "A") == of_prompt(paths["AB"], "A") == of_prompt(paths["ABCD"], "A")
    )
    assert of_prompt(paths["C"], "C") == of_prompt(paths["ABCD"], "C")
    assert len(of_prompt(paths["A"], "A")) == 4 + 3
    assert of_prompt(paths["A"], "A") != of_prompt(paths["C"], "C")


def test_gradients_are_clipped_prompt_by_prompt(store, texts, tmp_path):
    optim = small().align.optim.with_(clip_grad_norm=1e-3)
    config = small(texts=texts, stage="align", align=small().align.with_(optim=optim))
    both = run(config, store, tmp_path / "both").path
    alone = run(config.with_(prompts=("A",)), store, tmp_path / "alone").path
    assert of_prompt(both, "A") == of_prompt(alone, "A")


def test_stage_1_draws_texts_to_their_clips_and_its_file_has_both(store, texts, tmp_path):
    optim = small().align.optim.with_(epochs=40)
    config = small(texts=texts, stage="align", align=small().align.with_(optim=optim))
    path = run(config, store, tmp_path / "run").path
    file = read_embeddings(path / "embeddings.h5")
    assert file.provenance["pairs"] == {"prompts": ["A", "B"], "channels": CHANNELS}
    assert file.provenance["text_encoder"] == "tiny-words"
    clips = {clip.clip_id: clip for clip in file.clips}
    assert clips["val0"].embeddings.shape == (1, 2 * CHANNELS)
    assert clips["val0"].targets.shape == (2 * CHANNELS + 2,)
    for place in range(2):
        own = slice(place * CHANNELS, (place + 1) * CHANNELS)
        text = {clip_id: clips[clip_id].targets[own] for clip_id in ("val0", "val1")}
        for clip_id in ("val0", "val1", "val2", "val3"):
            visual = clips[clip_id].embeddings[0, own]
            near = max(text, key=lambda name, v=visual: float(v @ text[name]))
            assert action_of(near) == action_of(clip_id)
            assert np.linalg.norm(visual) == pytest.approx(1, abs=1e-6)
    assert clips["val0"].targets[-2:].tolist() == clips["val2"].targets[-2:].tolist()
    losses = [
        json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_names_of_actions_score_clips_by_stage_1_alone(store, texts, tmp_path, caplog):
    names = write_texts(tmp_path / "names.h5", clips=("run1", "jump0"), prompts=("A",))
    optim = small().align.optim.with_(epochs=40)
    config = small(texts=texts, stage="align", prompts=("A",), class_texts=str(names))
    with caplog.at_level(logging.WARNING):
        config = config.with_(align=config.align.with_(optim=optim))
        path = run(config, store, tmp_path / "run").path
    assert "has no text of 2 of 2 actions of" in caplog.text  # which are jump and run
    assert "whose clips are left out: 'jump', 'run'; `extract text" in caplog.text
    file = read_embeddings(path / "embeddings.h5")
    assert file.provenance["pairs"]["classes"] == ["jump0", "run1"]
    scores = {clip.clip_id: clip.embeddings[0, CHANNELS:] for clip in file.clips}
    assert [int(scores[f"val{i}"].argmax()) for i in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize("stop", [(1, 1), (3, 1)])  # within either stage
def test_it_resumes_to_the_same_bytes(store, texts, tmp_path, monkeypatch, stop):
    optim = small().optim.with_(checkpoint_minutes=0)
    align = small().align.with_(optim=optim.with_(clip_grad_norm=1e30), dropout=0.2)
    config = small(texts=texts, optim=optim, align=align, mixup=0.8, label_smoothing=0.1)
    run(config, store, tmp_path / "whole")
    save = run_module.Run.save

    def stop_after(self):
        save(self)
        if self.position == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "save", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(config, store, tmp_path / "cut")
    monkeypatch.setattr(run_module.Run, "save", save)
    run(config, store, tmp_path / "cut")
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_subsets_of_prompts_train_in_lock_step_and_end_as_alone(store, texts, tmp_path):
    first = run(small(texts=texts, stage="align"), store, tmp_path / "align").path
    base = small(stage="classify", processors=(str(first),), mixup=0.8)
    configs = {
        "AB": base,
        "B": base.with_(prompts=("B",)),
        "none": base.with_(prompts=(), processors=()),
        "appendix": base.with_(reading="appendix"),
    }
    assert len({config.stream for config in configs.values()}) == 1
    jobs = [Job(config, store, tmp_path / "step" / name) for name, config in configs.items()]
    found = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in found] == [None] * len(jobs)
    for name, config in configs.items():
        alone = run(config, store, tmp_path / "alone" / name).path
        assert (alone / "checkpoint.pt").read_bytes() == (
            tmp_path / "step" / name / "checkpoint.pt"
        ).read_bytes(), name


def test_runs_in_lock_step_read_each_map_once(store, tmp_path, monkeypatch):
    found = []
    read = steps.maps_of

    def maps_of(*words):
        found.append(words)
        return read(*words)

    monkeypatch.setattr(steps, "maps_of", maps_of)
    configs = [small(**LAST), small(**{**LAST, "blocks": 0}), small(**LAST, pool="max")]
    jobs = [Job(config, store, tmp_path / str(n)) for n, config in enumerate(configs)]
    results = train_together(jobs, device="cpu", progress=False)
    assert [result.error for result in results] == [None] * 3
    num_steps, num_clips, num_poolings = 4, 12, 2
    assert len(found) == (num_steps + num_clips) * num_poolings


def test_repeats_take_as_many_stored_views_of_a_clip(tmp_path):
    store = write_maps(tmp_path / "views", views=3)
    data = small().data.with_(views="augmented")
    config = small(**LAST, data=data, repeats=2, mixup=0.8, label_smoothing=0.1)
    path = run(config, store, tmp_path / "run").path
    assert read_provenance(path)["augmentation"] == "stored views"
    with pytest.raises(UsageError, match=r"data.views=augmented wants two augmented views"):
        run(config, write_maps(tmp_path / "one"), tmp_path / "no")


def test_scores_are_the_mean_over_views_and_segments(tmp_path, monkeypatch):
    store = write_maps(tmp_path / "maps", views=2, first_frames=6, more_frames=0)
    monkeypatch.setattr(system, "judged_views", lambda store: [0, 1])  # as if view 1 was a crop
    path = run(small(**{**LAST, "blocks": 0, "segments": 2}), store, tmp_path / "run").path
    head = {name: value.numpy() for name, value in weights(path).items()}
    opened = open_store(store)
    [clip] = [c for c in read_embeddings(path / "embeddings.h5").clips if c.clip_id == "val1"]
    shares = []
    for view in (0, 1):
        tokens = opened.read("val1", view=view).decode(3)  # the last block, (6, N, D)
        for frames in ([0, 2, 4], [1, 3, 5]):
            mean = tokens[frames].mean(axis=(0, 1))
            scores = np.exp(head["head.last.weight"] @ mean + head["head.last.bias"])
            shares.append(scores / scores.sum())
    assert np.ptp(shares, axis=0).max() > 0.01  # they differ
    np.testing.assert_allclose(clip.embeddings[0], np.mean(shares, axis=0), atol=1e-5)


def test_few_clips_of_each_action_are_drawn_by_the_seed_of_the_data(store, tmp_path):
    listed = {}
    for count, seed in ((1, 0), (2, 0), (1, 1)):
        data = small().data.with_(clips_per_action=count)
        config = small(**LAST, data=data, seed=seed)
        path = run(config, store, tmp_path / f"{count}-{seed}").path
        listed[count, seed] = read_provenance(path)["training_clips"]
        assert sorted(map(action_of, listed[count, seed])) == sorted(ACTIONS * count)
    assert listed[1, 0] == listed[1, 1]  # whatever the seed of the run
    assert set(listed[1, 0]) < set(listed[2, 0])
    with pytest.raises(ValueError, match=r"num_train_clips and data.clips_per_action: give one"):
        small(data=small().data.with_(clips_per_action=1, num_train_clips=1))


def test_another_store_is_scored_in_the_columns_of_the_run(store, tmp_path):
    path = run(small(**LAST), store, tmp_path / "run").path
    other = write_maps(tmp_path / "other", actions=("walk", "run"))
    embed_run(path, other, tmp_path / "e.h5", device=CPU, progress=False)
    file = read_embeddings(tmp_path / "e.h5")
    assert file.class_names == ACTIONS
    assert [clip.targets.tolist() for clip in file.clips[:2]] == [[0, 0], [0, 1]]


def test_weights_of_another_set_of_actions_are_first_weights_but_for_the_last_layer(
    store, tmp_path
):
    first = run(small(**LAST), store, tmp_path / "first").path
    other = write_maps(tmp_path / "other", actions=("a", "b", "c"))
    optim = OptimConfig(epochs=0)
    config = small(**LAST, optim=optim, init=str(first))
    second = run(config, other, tmp_path / "second").path
    ours, theirs = weights(second), weights(first)
    assert torch.equal(ours["blocks.0.wide.weight"], theirs["blocks.0.wide.weight"])
    assert len(ours["head.last.weight"]) == 3


# What is refused, or said


def test_clips_without_texts_are_counted_and_refused_unless_they_may_be_left_out(
    store, tmp_path, caplog
):
    lacking = {("train1", "A"), ("train3", "B"), ("val0", "B"), ("train1", "B")}
    texts = str(write_texts(tmp_path / "some.h5", lacking=lacking))
    config = small(texts=texts, stage="align")
    told = r"lacks texts of 2 of 8 training clips \(by prompt, A: 1, B: 2\), the first are 'train1'"
    with pytest.raises(UsageError, match=told):
        run(config, store, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        path = run(config.with_(texts_lacking="leave_out"), store, tmp_path / "run").path
    assert "left out for that prompt alone" in caplog.text
    clips = {clip.clip_id: clip for clip in read_embeddings(path / "embeddings.h5").clips}
    assert clips["val0"].targets[-2:].tolist() == [0, -1]
    assert not clips["val0"].targets[CHANNELS : 2 * CHANNELS].any()


def test_texts_of_another_encoder_are_refused(store, texts, tmp_path):
    other = str(write_texts(tmp_path / "o.h5", encoder={"name": "other", "sha256": "2" * 64}))
    config = small(texts=texts, stage="align", prompts=("A",))
    first = run(config, store, tmp_path / "first").path
    with pytest.raises(UsageError, match=r"texts of the encoder other .*wanted tiny-words"):
        run(
            config.with_(texts=other, text_encoder="tiny-words", text_channels=CHANNELS),
            store,
            tmp_path / "no",
        )
    second = run(config.with_(texts=other, prompts=("B",)), store, tmp_path / "second").path
    both = small(stage="classify", processors=(str(first), str(second)))
    with pytest.raises(UsageError, match="learned texts of two encoders, tiny-words"):
        run(both, store, tmp_path / "both")


def test_a_run_whose_texts_have_changed_is_another_run(store, tmp_path):
    texts = write_texts(tmp_path / "t.h5")
    config = small(texts=str(texts), stage="align")
    run(config, store, tmp_path / "run")
    write_texts(texts, lacking={("val0", "A")})
    with pytest.raises(WrongIdentity, match="texts_sha256"):
        run(config, store, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stage": "align"}, r"aligns clips with texts: set texts=FILE; `extract text"),
        ({"stage": "align", "texts": "none.h5"}, r"none.h5: no such file.*`extract text DATASET"),
        ({"stage": "classify"}, r"name runs of stage 1, processors=RUN,RUN, or set processors_al"),
        (
            {"stage": "classify", "processors": ("nothing",)},
            r"nothing is no run",
        ),
    ],
)
def test_what_a_stage_lacks_is_refused_with_the_command_that_makes_it(
    store, tmp_path, changes, told
):
    with pytest.raises(UsageError, match=told):
        run(small(**changes), store, tmp_path / "run")


def test_processors_that_are_missing_or_there_twice_are_refused(store, texts, tmp_path):
    first = str(run(small(texts=texts, stage="align", prompts=("A",)), store, tmp_path / "a").path)
    last = small(stage="classify", processors=(first,))
    with pytest.raises(UsageError, match=r"no run has a processor of prompt B \(they have A\)"):
        run(last, store, tmp_path / "no")
    with pytest.raises(UsageError, match=r"prompt A is in .* and in .*: name one"):
        run(last.with_(prompts=("A",), processors=(first, first)), store, tmp_path / "no")
    plain = str(run(small(**LAST), store, tmp_path / "plain").path)
    with pytest.raises(UsageError, match="not a trained run of stage 1"):
        run(last.with_(processors=(plain,)), store, tmp_path / "no")


def test_actions_that_differ_between_splits_are_named(tmp_path, caplog):
    one = write_maps(tmp_path / "one", actions=("run",))
    with pytest.raises(
        UsageError, match=r"the training clips of .* have 1: give each clip its act"
    ):
        run(small(**LAST), one, tmp_path / "no")
    store = write_maps(tmp_path / "odd", actions=("run", "jump", ""))
    with caplog.at_level(logging.WARNING):
        path = run(small(**LAST), store, tmp_path / "run").path
    assert "2 of 8 training clips have no action and are left out" in caplog.text
    assert read_embeddings(path / "embeddings.h5").class_names == ("jump", "run")


def test_one_store_is_read(store, tmp_path):
    with pytest.raises(UsageError, match="reads one store of clip maps, given a, b: give one"):
        run(small(**LAST), {"a": store, "b": store}, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_at_the_same_global_batch(store, texts, tmp_path):
    words = ["data.num_frames=3", "data.batch_clips=3", "optim.epochs=2", "optim.eps=1"]
    words += ["align.optim.epochs=2", "align.optim.eps=1", "align.batch_clips=3", f"texts={texts}"]
    words += ["align.optim.lr=0.03", "optim.lr=0.03", "mixup=0.8", "prompts=A,B", "head_channels=4"]
    words += ["align.dropout=0.2", "align.project=text"]
    one, two = (tmp_path / name for name in ("one", "two"))
    train_recipe("ftp", words, store=store, out=one, device="cpu", progress=False)
    done = train_in_processes(words, {"tokens": store}, two, processes=2, recipe="ftp")
    assert done.returncode == 0, done.stderr
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (one, two)]
    for here, there in zip(*lines, strict=True):
        one_line, other = json.loads(here), json.loads(there)
        assert one_line.pop("stage") == other.pop("stage")
        assert one_line == pytest.approx(other, rel=1e-5)
    pairs = zip(
        *(read_embeddings(path / "embeddings.h5").clips for path in (one, two)), strict=True
    )
    for here, there in pairs:
        np.testing.assert_allclose(here.embeddings, there.embeddings, atol=1e-5)


def test_a_pooled_store_aligns_as_the_whole_one_and_classifies_its_means(tmp_path, texts):
    clips = {"train": 2, "val": 2, "first_frames": 3, "more_frames": 0}
    whole = write_maps(tmp_path / "whole", **clips)
    pool_store(whole, tmp_path / "pooled")
    config = small(texts=texts, stage="align")
    one, two = (
        run(config, tmp_path / name, tmp_path / f"align-{name}").path
        for name in ("whole", "pooled")
    )
    ours, theirs = weights(one), weights(two)
    for name, value in ours.items():  # but for rounding the means to float16
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-3)
    last = small(stage="classify", processors=(str(two),))
    path = run(last, tmp_path / "pooled", tmp_path / "classify").path
    held = read_provenance(path)["config"]
    assert (held["map"], held["pooled_grid"]) == ("pooled", [2, 3])
    full = run(last.with_(map="pooled"), whole, tmp_path / "full").path
    pairs = zip(
        *(read_embeddings(run_ / "embeddings.h5").clips for run_ in (path, full)), strict=True
    )
    for here, there in pairs:
        np.testing.assert_allclose(here.embeddings, there.embeddings, atol=2e-2)
    with pytest.raises(UsageError, match="has the means of maps: give the store of whole maps"):
        run(config.with_(pool="max"), tmp_path / "pooled", tmp_path / "no")
