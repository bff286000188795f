"""The cache: where models lie, how they are published, checked and removed."""

import pytest

from flowgraph.errors import ArgumentError, UnknownModelError
from flowgraph.models import cache

ORIGIN = {"wheel": "tiny-model==1.0", "sha256": "00"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(name="tiny", *, weights=b"w" * 1000, origin=ORIGIN):
    """Publish a small model."""
    with cache.locked(name), cache.partial_folder(name) as workplace:
        made = workplace / "model"
        made.mkdir()
        (made / "config.json").write_text("{}")
        (made / "model.safetensors").write_bytes(weights)
        return cache.publish(made, name, origin)


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".partial")]


def test_the_environment_moves_the_cache(monkeypatch, tmp_path):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("FLOWGRAPH_CACHE", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("FLOWGRAPH_CACHE", "")
    assert cache.cache_folder().name == "flowgraph"
    assert cache.cache_folder().is_absolute()


def test_a_cache_that_does_not_exist_holds_nothing(own_cache):
    assert cache.cached_models() == {}
    assert not own_cache.exists()


def test_a_published_model_is_listed_with_its_size_and_nothing_else_is_left(own_cache):
    folder = put()
    assert folder == own_cache / "tiny"
    assert cache.fault("tiny", ORIGIN) is None
    assert cache.cached_models() == {"tiny": sum(path.stat().st_size for path in folder.iterdir())}
    assert hidden(own_cache) == []


def test_publishing_again_replaces_the_folder(own_cache):
    put(weights=b"old" * 100)
    put(weights=b"new")
    assert (own_cache / "tiny" / "model.safetensors").read_bytes() == b"new"
    assert cache.fault("tiny", ORIGIN) is None
    assert hidden(own_cache) == []


def test_unfinished_and_foreign_folders_are_not_listed(own_cache):
    put()
    (own_cache / "notes").mkdir()
    (own_cache / ".tiny.abc.partial" / "model").mkdir(parents=True)
    assert list(cache.cached_models()) == ["tiny"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"w" * 999), "999 bytes instead of 1000"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"v" * 1000),
            "model.safetensors was changed",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is damaged"),
    ],
)
def test_damage_is_found_and_named(damage, said):
    damage(put())
    assert said in cache.fault("tiny", ORIGIN)


def test_a_folder_of_another_origin_is_outdated():
    put()
    assert "another wheel" in cache.fault("tiny", ORIGIN | {"sha256": "11"})


@pytest.mark.parametrize("position", [0, 2**20 - 1, -1, -(2**20)])
def test_the_ends_of_a_large_file_are_checked(position):
    weights = bytearray(17 * 2**20)
    folder = put(weights=bytes(weights))
    assert cache.fault("tiny", ORIGIN) is None
    weights[position] = 1
    (folder / "model.safetensors").write_bytes(weights)
    assert cache.fault("tiny", ORIGIN) == "model.safetensors was changed"


def test_remove_frees_what_it_says_and_takes_leftovers_along(own_cache):
    put()
    listed = cache.cached_models()["tiny"]
    leftover = own_cache / ".tiny.abc.partial"
    leftover.mkdir()
    (leftover / "half.gguf").write_bytes(b"x" * 70)
    other = own_cache / ".tinyer.abc.partial"
    other.mkdir()
    assert cache.remove("tiny") == listed + 70
    assert cache.cached_models() == {}
    assert not (own_cache / "tiny").exists()
    assert hidden(own_cache) == [other.name]


@pytest.mark.parametrize("name", ["huge", "..", ".", "", "tiny/../tiny", "*"])
def test_removing_what_is_not_cached_says_what_is(own_cache, name):
    put()
    with pytest.raises(UnknownModelError, match="it holds tiny") as caught:
        cache.remove(name)
    assert isinstance(caught.value, ArgumentError)
    assert (own_cache / "tiny").is_dir()


def test_the_workplace_is_gone_after_an_error(own_cache):
    def fail():
        with cache.locked("tiny"), cache.partial_folder("tiny") as workplace:
            (workplace / "half").write_bytes(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert hidden(own_cache) == []


def test_a_lock_that_is_free_makes_nobody_wait():
    heard = []
    with cache.locked("tiny", lambda *stage: heard.append(stage)):
        pass
    assert heard == []
