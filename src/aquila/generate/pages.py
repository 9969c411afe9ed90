"""The page pool of the key-value cache: who holds which page, and which pages hold a prefix that can be used again.

Source: Kwon et al. 2023, arXiv:2309.06180 (paged attention). A page holds the keys and values of `page_size` tokens in
every layer. Full pages are registered under (page before it, its tokens): a chain of exact matches, so two prompts
share pages when and only when they have the same adapter and begin with the same tokens. A page that nobody holds
keeps its content until it is needed.
"""

from collections import OrderedDict
from collections.abc import Sequence

ROOT = -1  # the parent of a first page; less by its number for each adapter, which computes other keys and values

Prefix = tuple[int, tuple[int, ...]]  # (serial of the page before, tokens of this page)


class PagePool:
    """Hands out page numbers 0 .. num_pages - 1 and counts who holds them."""

    def __init__(self, num_pages: int, page_size: int, *, reuse: bool = True):
        self.num_pages = num_pages
        self.page_size = page_size
        self.reuse = reuse
        self._holders = [0] * num_pages
        self._free: OrderedDict[int, None] = OrderedDict((page, None) for page in range(num_pages))
        self._serials = [ROOT] * num_pages  # identity of a page's content; a page that is rewritten gets a new one
        self._prefixes: dict[int, Prefix] = {}  # page -> what it is registered under
        self._registered: dict[Prefix, int] = {}  # the inverse
        self._next_serial = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    def match(self, token_ids: Sequence[int], adapter: int = 0) -> list[int]:
        """Takes hold of the pages that already hold the beginning of `token_ids` under an adapter.

        At least one token is left to compute, since its logits are wanted.
        """
        pages: list[int] = []
        parent = ROOT - adapter
        for start in range(0, len(token_ids) - self.page_size, self.page_size):
            page = self._registered.get((parent, tuple(token_ids[start : start + self.page_size])))
            if page is None or not self.reuse:
                break
            pages.append(page)
            parent = self._serials[page]
        for page in pages:
            self._hold(page)
        return pages

    def take(self, count: int) -> list[int] | None:
        """`count` pages of unspecified content, or None (and nothing taken) when fewer are free."""
        if count > len(self._free):
            return None
        pages = []
        for _ in range(count):
            page, _ = self._free.popitem(last=False)  # the one that was let go longest ago
            prefix = self._prefixes.pop(page, None)
            if prefix is not None:
                del self._registered[prefix]
            self._serials[page] = self._next_serial
            self._next_serial += 1
            self._holders[page] = 1
            pages.append(page)
        return pages

    def register(self, pages: Sequence[int], token_ids: Sequence[int], first: int, last: int, adapter: int = 0) -> None:
        """Makes pages `first .. last - 1` of a sequence, now fully computed, findable by their tokens."""
        for place in range(first, last):
            page = pages[place]
            parent = self._serials[pages[place - 1]] if place else ROOT - adapter
            prefix = (parent, tuple(token_ids[place * self.page_size : (place + 1) * self.page_size]))
            if page not in self._prefixes and prefix not in self._registered:
                self._prefixes[page] = prefix
                self._registered[prefix] = page

    def release(self, pages: Sequence[int]) -> None:
        """Lets go of pages; the last ones of a sequence are the first to be rewritten."""
        for page in reversed(pages):
            self._holders[page] -= 1
            assert self._holders[page] >= 0, f"page {page} released more often than held"
            if self._holders[page] == 0:
                self._free[page] = None
                if page not in self._prefixes:
                    self._free.move_to_end(page, last=False)  # nothing in it to use again

    def _hold(self, page: int) -> None:
        if self._holders[page] == 0:
            del self._free[page]
        self._holders[page] += 1
