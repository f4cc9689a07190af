"""Tables of names: ours, and those of plugins."""

import sys
from importlib.metadata import EntryPoint, EntryPoints, entry_points

import pytest

from tokenreel.cache import plugins
from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import Table

TABLE = Table("codec", "tokenreel.test_codecs", {"json": "json:dumps", "text": "textwrap:dedent"})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install packages that are a module, with entry points of the group of TABLE."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(package: str, points: dict[str, str], module: str = "") -> None:
        (tmp_path / f"{package}.py").write_text(module)
        info = tmp_path / f"{package}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        text = "\n".join(["[tokenreel.test_codecs]", *lines])
        (info / "entry_points.txt").write_text(text + "\n")

    return make


def test_ours_are_loaded_by_name():
    assert TABLE.load("json")([1]) == "[1]"
    assert "text" in TABLE
    assert "toml" not in TABLE


def test_a_plugin_is_listed_without_being_imported_and_then_loaded(install):
    install("plugin_a", {"zip": "plugin_a:zip_it"}, "zip_it = 'zipped'")
    assert TABLE.names() == ["json", "text", "zip"]
    assert "plugin_a" not in sys.modules
    assert TABLE.load("zip") == "zipped"
    assert "zip" in TABLE


def test_an_unknown_name_is_refused_with_the_nearest_and_where_plugins_come_from():
    words = r"no codec 'jsn', did you mean json\? \(known: json, text; packages add more by the "
    with pytest.raises(UsageError, match=words + "entry point tokenreel.test_codecs"):
        TABLE.load("jsn")


def test_a_broken_plugin_is_named_and_harms_no_other(install):
    install("plugin_b", {"bad": "plugin_b:x"}, "raise RuntimeError('no licence')")
    install("plugin_c", {"good": "plugin_c:x"}, "x = 1")
    assert TABLE.names() == ["json", "text", "bad", "good"]
    with pytest.raises(
        UsageError, match=r"'bad' of plugin_b 1.5 \(plugin_b:x\) cannot be imported"
    ):
        TABLE.load("bad")
    assert TABLE.load("good") == 1


def test_a_name_that_two_packages_give_is_refused_naming_both(install):
    install("plugin_d", {"twice": "plugin_d:x"}, "x = 1")
    install("plugin_e", {"twice": "plugin_e:x", "json": "plugin_e:x"}, "x = 1")
    with pytest.raises(UsageError, match=r"given twice, by plugin_. 1\.5 .* and by plugin_. 1\.5"):
        TABLE.load("twice")
    with pytest.raises(UsageError, match=r"given twice, by TokenReel .* and by plugin_. 1\.5"):
        TABLE.load("json")


def test_packages_are_read_once_until_one_is_added(install, monkeypatch):
    count = 0

    def counted(*, group):
        nonlocal count
        count += 1
        return entry_points(group=group)

    monkeypatch.setattr(plugins, "entry_points", counted)
    install("plugin_e", {"one": "plugin_e:x"}, "x = 1")
    assert [TABLE.names(), "one" in TABLE, TABLE.load("one")][2] == 1
    assert count == 1
    install("plugin_f", {"two": "plugin_f:x"}, "x = 2")
    assert TABLE.load("two") == 2
    assert count == 2


def test_a_package_that_is_found_twice_on_the_path_counts_once(install, tmp_path, monkeypatch):
    install("plugin_j", {"again": "plugin_j:x"}, "x = 1")
    copy = tmp_path / "copy"
    copy.mkdir()
    info = tmp_path / "plugin_j-1.5.dist-info"
    (copy / info.name).mkdir()
    for file in info.iterdir():
        (copy / info.name / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(copy)
    assert TABLE.load("again") == 1
    assert TABLE.names() == ["json", "text", "again"]


def test_two_packages_that_point_at_one_object_are_still_two(install):
    install("plugin_g", {"both": "plugin_g:x"}, "x = 1")
    install("plugin_h", {"both": "plugin_g:x"}, "")
    with pytest.raises(UsageError, match=r"by plugin_[gh] 1\.5 .* and by plugin_[gh] 1\.5"):
        TABLE.load("both")


def test_a_package_that_lists_an_object_twice_counts_once(install, monkeypatch):
    install("plugin_t", {"twice": "plugin_t:x"}, "x = 7")
    (point,) = entry_points(group="tokenreel.test_codecs", name="twice")
    again = EntryPoint(point.name, point.value, point.group)
    again = again._for(point.dist)  # type: ignore[attr-defined]
    assert again is not point
    monkeypatch.setattr(plugins, "_points_of", lambda _: EntryPoints([point, again]))
    assert TABLE.load("twice") == 7


def test_a_plugin_that_takes_a_name_of_ours_is_listed_once(install):
    install("plugin_i", {"json": "plugin_i:x", "a": "plugin_i:x"}, "x = 1")
    assert TABLE.names() == ["json", "text", "a"]  # ours first, in their order


def test_a_word_that_is_near_to_none_is_told_without_a_guess():
    with pytest.raises(UsageError, match=r"^no codec 'xyzzy' \(known: json, text;"):
        TABLE.load("xyzzy")
