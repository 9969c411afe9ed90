import datetime

import pytest

from aquila.errors import ConfigError
from aquila.model.presets import preset, preset_names
from aquila.zoo.registry import all_models, find, split_reference

NAMES = [
    "aquila-7b",
    "aquilachat-7b",
    "aquilacode-multi",
    "aquilacode-py",
    "aquilacode-7b-nv",
    "aquilacode-7b-ts",
    "aquilasql-7b",
    "aquila2-7b",
    "aquila2-34b",
    "aquila2-70b-expr",
    "aquilachat2-7b",
    "aquilachat2-7b-16k",
    "aquilachat2-34b",
    "aquilachat2-34b-16k",
    "aquilachat2-70b-expr",
    "aquila-135m",
    "aquila-135m-instruct",
    "smollm2-135m",
]


def test_the_whole_family_is_known():
    assert [entry.name for entry in all_models()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_agrees_with_its_preset(name):
    entry = find(name)
    assert entry.preset in preset_names()
    assert entry.context_length == preset(entry.preset).max_position_embeddings


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_dated_oldest_first(name):
    dates = [version.date for version in find(name).versions if version.date]
    assert dates == sorted(dates)
    assert all(datetime.date(2023, 6, 9) <= date < datetime.date(2026, 1, 1) for date in dates)
    assert all(version.changes for version in find(name).versions)


@pytest.mark.parametrize(
    ("name", "version", "md5"),
    [
        ("aquila-7b", "v0.5", "13d39993743e66081640c6245da3db48"),
        ("aquila-7b", "v0.9", "18eac56434db0198494b22b321633785"),
        ("aquila-7b", "1.0", "5b56d31c8154c9184a38ff7bc6b4d887"),
        ("aquilachat-7b", "v1.0", "883e83286ee309dbb624016256e30d4c"),
        ("aquilacode-multi", "v1.0", "07cfce9440a0fa1ac2768b39d2cf4286"),
        ("aquilacode-python", "V0.9", "3faa85fc03d8fda70a73064f48d02d85"),
        ("aquilacode-7b-ts", "v0.8", "5dae2486bc5a885279be87c13872cd5c"),
    ],
)
def test_published_md5(name, version, md5):
    assert find(name).version(version).md5 == md5


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("aquila-33b", "aquila2-34b"),
        ("AquilaChat-33B", "aquilachat2-34b"),
        ("aquilacode-python", "aquilacode-py"),
        ("BAAI/AquilaChat-7B", "aquilachat-7b"),
    ],
)
def test_aliases_and_hub_ids_in_any_case(alias, name):
    assert find(alias).name == name


def test_an_unknown_name_or_version_names_the_nearest():
    with pytest.raises(ConfigError, match="no model is called 'aquilla-7b'; did you mean 'aquila-7b'"):
        find("aquilla-7b")
    with pytest.raises(ConfigError, match=r"aquila-7b has no version 'v3'; published: v0\.5, v0\.6"):
        find("aquila-7b").version("v3")


def test_split_reference():
    assert split_reference("aquila-7b@v0.8") == ("aquila-7b", "v0.8")
    assert split_reference("aquila-7b") == ("aquila-7b", None)


def test_the_users_registry_adds_and_replaces(home):
    (home / "registry.yaml").write_text(
        """
models:
  - name: mine
    aliases: [my-model]
    kind: code
    preset: tiny
    num_parameters: 7
    context_length: 256
    licence: {name: MIT, url: "https://example.org", note: Ours.}
    versions: [{version: main, changes: First.}]
""",
        encoding="utf-8",
    )
    assert find("my-model").num_parameters == 7
    assert find("aquila-7b").default_version == "v1.0"


def test_a_mistake_in_the_users_registry_is_named(home):
    (home / "registry.yaml").write_text("models: [{name: mine, kinds: code}]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"registry\.yaml: models\.0\.kinds: unknown key; did you mean 'kind'"):
        find("mine")
