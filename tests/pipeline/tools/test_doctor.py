"""The doctor names what is there, and what will be slow."""

import builtins
import errno
import importlib
import os

import pytest

from tokenreel.extract.preview import plan
from tokenreel.pipeline.tools import doctor
from tokenreel.pipeline.tools.doctor import Finding, examine, report


def found(folder, what: str, **options) -> Finding:
    return next(finding for finding in examine(folder, **options) if finding.what == what)


def test_every_subject_is_examined(tmp_path):
    subjects = {finding.what for finding in examine(tmp_path / "not" / "there", measure=False)}
    assert subjects >= {"python", "cores", "torch", "triton", "PyAV", "decord", "free space"}
    assert any(subject.startswith("gpu") for subject in subjects)


def test_the_disk_is_measured_and_left_as_it_was(tmp_path):
    assert "GB/s read" in found(tmp_path, "disk").value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_nothing_is_a_finding(tmp_path, monkeypatch, number):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(plan.tempfile, "TemporaryFile", refuse)
    finding = found(tmp_path, "disk")
    assert finding.value == "not measured"
    assert finding.advice.startswith(f"{tmp_path}: cannot be written: {os.strerror(number)}; ")
    assert finding.advice.endswith(": no store can be made here")


@pytest.fixture
def cannot_import(monkeypatch):
    """Make the import of a package fail, for a reason."""

    def fail(package: str, reason: str) -> None:
        def without(name: str):
            if name == package:
                raise ImportError(reason)
            return builtins.__import__(name)

        monkeypatch.setattr(importlib, "import_module", without)

    return fail


def test_a_missing_decoder_is_told_with_what_it_means(tmp_path, cannot_import):
    cannot_import("decord", "no wheel for this machine")
    finding = found(tmp_path, "decord", measure=False)
    assert finding.value == "absent (no wheel for this machine)"
    assert "second opinion" in finding.advice


def test_a_numba_that_is_there_but_cannot_be_imported_is_told(tmp_path, cannot_import):
    cannot_import("numba", "Numba needs an older NumPy")
    finding = found(tmp_path, "import numba", measure=False)
    assert finding.value == "fails"
    assert finding.advice.startswith("Numba needs an older NumPy: compiled loops are off")


def test_little_space_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_SPACE_BYTES", float("inf"))
    assert "extract plan" in found(tmp_path, "free space", measure=False).advice


def test_advice_stands_below_its_finding():
    assert report([Finding("gpu", "none", "be patient")]) == "gpu  none\n     ! be patient"
