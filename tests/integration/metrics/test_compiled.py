"""The cache of compiled code: one for all copies of the same sources, never one that others may write to."""

import shutil
from pathlib import Path

import pytest
from numba import config

from diagcot.jobs.environment import compiled
from diagcot.metrics.meteor import alignment, phrases


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "one" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("def f():\n    return 1\n")
    (folder / "callee.py").write_text("x = 1\n")
    return folder


def locator(folder):
    return compiled.SourceCache.from_function(locator, str(folder / "code.py"))


def test_a_copy_at_another_path_finds_the_same_cache(package, tmp_path):
    copy = Path(shutil.copytree(package, tmp_path / "two" / "package"))
    (copy / "code.py").touch()
    one, two = locator(package), locator(copy)
    assert one.get_cache_path() == two.get_cache_path() and one.get_source_stamp() == two.get_source_stamp()
    assert Path(one.get_cache_path()).stat().st_mode & 0o777 == 0o700
    assert Path(one.get_cache_path()).parent.stat().st_mode & 0o777 == 0o700


def test_a_change_in_a_module_next_to_it_is_another_cache(package, tmp_path):
    copy = Path(shutil.copytree(package, tmp_path / "two" / "package"))
    (copy / "callee.py").write_text("x = 2\n")
    assert locator(package).get_cache_path() != locator(copy).get_cache_path()


def test_a_folder_that_others_can_write_to_is_not_used(package):
    Path(locator(package).get_cache_path()).chmod(0o770)
    assert locator(package) is None


def test_the_folder_of_a_user(monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compiled.cache_folder() == Path("/somewhere/diagcot/numba")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compiled.cache_folder() == Path.home() / ".cache/diagcot/numba"


def test_meteor_is_cached_there_and_other_code_is_not():
    for function in (alignment.counts, phrases.scan):
        assert Path(function.stats.cache_path).parent == compiled.cache_folder()
    assert compiled.__name__ not in config.CACHE_LOCATOR_CLASSES
