"""Fixtures of tests of phases."""

import pytest


@pytest.fixture
def record(request, monkeypatch):
    """Replace a function of the module that the tests' `RECORDED` is; what it was given."""

    def replace(name, answer):
        given = []

        def recorded(*args, **kwargs):
            given.append((args, kwargs))
            return answer

        monkeypatch.setattr(request.module.RECORDED, name, recorded)
        return given

    return replace
