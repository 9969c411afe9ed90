"""Events of a stream keep whole whatever characters stand in them, at both ends."""

import httpx
import pytest

from aquila.chat.event_stream import Lines, event_data
from aquila.serve.sse import event

TEXT = "one\x85two\u2028three\u2029four\r\nfive\x0bsix\x1c七\\u2028"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_line_ends_at_a_line_feed_alone(size: int):
    """What other servers send, which escape nothing, in pieces of any size."""
    stream = 'data: {"text": "a\x85b\u2028c\u2029d"}\n\n: ping\r\n\r\ndata: {"text": "e"}\r\n\r\ndata: [DONE]\n\n'
    lines = Lines()
    found = [line for start in range(0, len(stream), size) for line in lines.feed(stream[start : start + size])]
    events = [data for line in found if (data := event_data(line)) is not None]
    assert events == [{"text": "a\x85b\u2028c\u2029d"}, {"text": "e"}]


def test_our_events_are_one_line_for_a_client_that_cuts_at_all_that_unicode_calls_an_end():
    response = httpx.Response(200, content=event({"text": TEXT}) + event({"text": "next"}))
    assert [event_data(line) for line in response.iter_lines() if line] == [{"text": TEXT}, {"text": "next"}]
