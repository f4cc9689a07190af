"""Clips that an embedding file says were left out when it was made are told again."""

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings
from tokenreel.evaluate.data.clips import file_sha256, load_screened


def a_clip(name, *, bad=False):
    embeddings = np.full((3, 2), np.nan if bad else 1.0, np.float32)
    return EmbeddedClip(name, "val", "lift", "", embeddings, np.zeros(3, np.int16), np.arange(3.0))


def test_what_the_file_left_out_comes_before_what_is_bad_in_it(tmp_path):
    told = {"lift": ["torn: frame 3 is damaged"], "dance": ["gone: no bytes"]}
    path = tmp_path / "e.h5"
    write_embeddings(path, [a_clip("good")], provenance={"left_out": told})
    assert load_screened(path, file_sha256(path)).left_out == told
