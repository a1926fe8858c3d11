"""Settings from a file."""

import pytest

from pgcdc_outbox.errors import SettingsError
from pgcdc_outbox.settings import Settings, load


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "outbox.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_a_whole_file(write):
    settings = load(
        write('dsn = "dbname=shop"\nschema = "jobs"\n[consume]\nhandler = "a:b"\nbatch_size = 7\n')
    )

    assert (settings.dsn, settings.schema) == ("dbname=shop", "jobs")
    assert (settings.consume.handler, settings.consume.batch_size) == ("a:b", 7)


def test_an_empty_file_means_the_defaults(write):
    assert load(write("")) == Settings()


def test_an_unknown_key_is_refused_with_its_name_the_file_and_the_known_ones(write):
    path = write("[consume]\nbatchsize = 7\n")

    with pytest.raises(SettingsError) as caught:
        load(path)

    assert str(caught.value) == f"{path}: unknown key consume.batchsize"
    assert "consume.batch_size" in caught.value.hint


def test_a_value_of_the_wrong_kind_names_its_key(write):
    with pytest.raises(SettingsError, match=r"consume\.batch_size: Expected `int"):
        load(write('[consume]\nbatch_size = "many"\n'))


def test_what_is_not_toml_is_not_quoted(write):
    with pytest.raises(SettingsError) as caught:
        load(write('dsn = "password=hunter2\n'))

    assert "not TOML" in str(caught.value)
    assert "line 1" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "nowhere.toml")
