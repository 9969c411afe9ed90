"""Hostfiles as people have them."""

from pathlib import Path

import pytest

from aquila.errors import ConfigError
from aquila.launch.hostfile import Host, parse_hostfile, read_hostfile


def test_the_hostfile_of_the_original():
    text = "192.168.21.2 slots=8\n192.168.21.3 slots=8\n"
    assert parse_hostfile(text, where="hostfile") == [Host("192.168.21.2", 8), Host("192.168.21.3", 8)]


def test_comments_blank_lines_and_a_last_line_without_newline():
    text = "# the head\nnode-a slots=8   # eight cards\n\n   \r\n\tnode-b  slots=4"
    assert parse_hostfile(text, where="hostfile") == [Host("node-a", 8), Host("node-b", 4)]


@pytest.mark.parametrize(
    ("word", "host"),
    [
        ("me@node-a", Host("node-a", 2, user="me")),
        ("node-a:2222", Host("node-a", 2, port=2222)),
        ("me@10.0.0.1:2222", Host("10.0.0.1", 2, user="me", port=2222)),
        ("fe80::1", Host("fe80::1", 2)),
        ("me@[fe80::1]:22", Host("fe80::1", 2, user="me", port=22)),
        ("localhost", Host("localhost", 2)),
    ],
)
def test_users_ports_and_addresses(word: str, host: Host):
    assert parse_hostfile(f"{word} slots=2", where="hostfile") == [host]
    assert host.label == word


def test_a_file_saved_by_an_editor_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "hostfile").write_bytes(b"\xef\xbb\xbfnode-a slots=1\r\n")
    assert read_hostfile(tmp_path / "hostfile") == [Host("node-a", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hostfile: names no machine; write one line a machine, such as `192.168.0.1 slots=8`"),
        ("# nobody\n\n", "hostfile: names no machine"),
        ("a slots=8\nb", "hostfile:2: b has no slots; write `b slots=N` with N its devices"),
        ("a slots=0", "hostfile:1: slots=0 is not a number of devices from 1 to 1024"),
        ("a slots=-1", "hostfile:1: slots=-1 is not a number of devices"),
        ("a slots=eight", "hostfile:1: slots=eight is not a number of devices"),
        ("a slots=8 gpus=8", "hostfile:1: 'gpus=8' is not known; after the host comes slots=N"),
        ("a slots 8", "hostfile:1: 'slots' is not known"),
        ("a slots=8\n\na slots=4", "hostfile:3: a stands here twice; give all its devices in one line"),
        ("a;rm slots=8", "hostfile:1: 'a;rm' is not a machine; write host, user@host or user@host:port"),
        ("-oProxyCommand=x slots=8", "hostfile:1: '-oProxyCommand=x' is not a machine"),
        ("a:0 slots=8", "hostfile:1: 'a:0' is not a machine"),
        ("a:70000 slots=8", "hostfile:1: 'a:70000' is not a machine"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, message: str):
    with pytest.raises(ConfigError) as error:
        parse_hostfile(text, where="hostfile")
    assert str(error.value).startswith(message)


def test_a_hostfile_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such hostfile; write one line a machine"):
        read_hostfile(tmp_path / "hostfile")


def test_only_plain_addresses_of_this_machine_need_no_ssh():
    assert Host("localhost", 1).is_this_machine()
    assert Host("127.0.0.1", 1).is_this_machine()
    assert not Host("127.0.0.1", 1, port=2222).is_this_machine()
    assert not Host("127.0.0.1", 1, user="me").is_this_machine()
    assert not Host("192.0.2.1", 1).is_this_machine()  # reserved for documentation: nobody has it
