"""The identity of a store: fingerprint, differences, refusal."""

import hashlib

import pytest
from pydantic import ValidationError

from tokenreel.cache.errors import WrongIdentity
from tokenreel.cache.format.identity import StoreIdentity


def make_identity(**changes: object) -> StoreIdentity:
    fields: dict = {
        "architecture": "vit_tiny_patch16_224",
        "weights_sha256": "0" * 64,
        "blocks": (3, 7, 11),
        "grid": (14, 14),
        "dim": 192,
        "image_size": (224, 224),
        "transform": {"name": "dino-256-224", "resize": 256},
        "frames": {"policy": "all"},
        "codec": {"name": "fp16"},
    }
    return StoreIdentity(**(fields | changes))


def test_the_fingerprint_is_the_hash_of_the_canonical_json():
    identity = make_identity()
    assert identity.fingerprint == hashlib.sha256(identity.to_json()).hexdigest()
    assert b" " not in identity.to_json()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "vit_base_patch8_224"),
        ("weights_sha256", "1" * 64),
        ("blocks", (11,)),
        ("cls", "none"),
        ("grid", (7, 7)),
        ("dim", 384),
        ("image_size", (112, 112)),
        ("transform", {"name": "dino-256-224", "resize": 255}),
        ("frames", {"policy": "stride"}),
        ("views", ()),
        ("numeric", "bfloat16"),
        ("codec", {"name": "int8"}),
    ],
)
def test_every_field_changes_the_fingerprint_and_is_named_in_the_refusal(field, value):
    store, wanted = make_identity(), make_identity(**{field: value})

    assert store.fingerprint != wanted.fingerprint
    with pytest.raises(WrongIdentity, match=rf"1 field\(s\) differ:\n  {field}"):
        store.require(wanted, path="some-store")


def test_tokens_views_and_crops_are_counted():
    assert make_identity(grid=(2, 3)).num_tokens == 6
    names = ("clean", "crop-left", "crop-right", "augmented-1")
    identity = make_identity(views=tuple({"name": name} for name in names))
    assert (identity.num_views, identity.num_crops, identity.num_augmented) == (4, 3, 1)
    named = make_identity(views=({"name": "clean"}, {"name": "cropped"}))
    assert (named.num_crops, named.num_augmented) == (1, 1)


def test_an_equal_identity_is_not_refused():
    make_identity().require(make_identity(), path="some-store")


def test_a_nested_difference_is_named_by_its_dotted_field():
    other = make_identity(transform={"name": "dino-256-224", "resize": 255})
    assert make_identity().differences(other) == [("transform.resize", 256, 255)]


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="extra"):
        make_identity(colour="red")
