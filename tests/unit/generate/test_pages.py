"""The page pool against a model of itself: pages are never lost, doubled, or given away while held."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aquila.generate.pages import PagePool

SIZE = 4


class PoolMachine(RuleBasedStateMachine):
    """Sequences take, match, register and release in any order; contents are tracked by hand."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(10, SIZE)
        self.held: list[tuple[list[int], list[int]]] = []  # (pages, tokens)
        self.content: dict[int, tuple[int, ...]] = {}  # page -> adapter and all tokens up to its end, once registered

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20), adapter=st.integers(0, 2))
    def admit(self, tokens, adapter):
        found = self.pool.match(tokens, adapter)
        assert len(found) * SIZE < len(tokens)
        for place, page in enumerate(found):
            assert self.content[page] == (adapter, *tokens[: (place + 1) * SIZE])  # exactly this beginning
        fresh = self.pool.take(-(-len(tokens) // SIZE) - len(found))
        if fresh is None:
            self.pool.release(found)
            return
        pages = found + fresh
        for page in fresh:
            self.content.pop(page, None)
        full = len(tokens) // SIZE
        self.pool.register(pages, tokens, len(found), full, adapter)
        for place in range(len(found), full):
            self.content[pages[place]] = (adapter, *tokens[: (place + 1) * SIZE])
        self.held.append((pages, tokens))

    @precondition(lambda self: self.held)
    @rule(place=st.integers(0, 100))
    def finish(self, place):
        pages, _ = self.held.pop(place % len(self.held))
        self.pool.release(pages)

    @invariant()
    def free_and_held_are_all_pages(self):
        held = {page for pages, _ in self.held for page in pages}
        assert self.pool.num_free == 10 - len(held)


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPagePool = PoolMachine.TestCase


def test_a_prefix_outlives_its_owner_and_is_found_again():
    pool = PagePool(4, SIZE)
    tokens = list(range(9))
    pages = pool.take(3)
    pool.register(pages, tokens, 0, 2)
    pool.release(pages)
    assert pool.match(tokens) == pages[:2]


def test_one_token_is_always_left_to_compute():
    """A prompt of whole pages, all of them known: the last page is computed again for its logits."""
    pool = PagePool(4, SIZE)
    tokens = list(range(8))
    pages = pool.take(2)
    pool.register(pages, tokens, 0, 2)
    assert pool.match(tokens) == pages[:1]
