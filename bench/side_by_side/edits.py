"""Code editing as an assistant does it: a piece of code, what is to change, and the code with the change made.

Written for this bench. The answers are what a good model gives, so that a model of random weights can be made to give
them: how far lookup decoding gets depends on the text, not on the weights.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """What is asked, and the text that answers it."""

    code: str
    wish: str
    changes: tuple[tuple[str, str], ...]

    @property
    def prompt(self) -> str:
        return f"```python\n{self.code}```\n{self.wish}\n```python\n"

    @property
    def answer(self) -> str:
        text = self.code
        for old, new in self.changes:
            assert old in text, old
            text = text.replace(old, new)
        return text + "```\n"


EDITS = (
    Edit(
        """def read_table(path, separator=","):
    rows = []
    with open(path) as file:
        header = file.readline().rstrip("\\n").split(separator)
        for number, line in enumerate(file, 2):
            cells = line.rstrip("\\n").split(separator)
            if len(cells) != len(header):
                raise ValueError(f"{path}, line {number}: {len(cells)} cells, the header has {len(header)}")
            rows.append(dict(zip(header, cells)))
    return rows
""",
        "Read the file as UTF-8 and skip empty lines.",
        (
            ("open(path) as", 'open(path, encoding="utf-8") as'),
            ("            cells =", "            if not line.strip():\n                continue\n            cells ="),
        ),
    ),
    Edit(
        '''class Cache:
    """Keeps the values that were used last."""

    def __init__(self, size):
        self.size = size
        self.items = OrderedDict()

    def get(self, key):
        if key not in self.items:
            return None
        self.items.move_to_end(key)
        return self.items[key]

    def put(self, key, value):
        self.items[key] = value
        self.items.move_to_end(key)
        if len(self.items) > self.size:
            self.items.popitem(last=False)
''',
        "把 size 改名为 capacity，并统计命中次数。",
        (
            ("self.size", "self.capacity"),
            ("(self, size)", "(self, capacity)"),
            ("= size\n", "= capacity\n        self.num_hits = 0\n"),
            ("        return self.items[key]", "        self.num_hits += 1\n        return self.items[key]"),
        ),
    ),
    Edit(
        """def shortest_path(graph, start, goal):
    queue = [(0, start, [])]
    seen = set()
    while queue:
        cost, node, path = heapq.heappop(queue)
        if node in seen:
            continue
        seen.add(node)
        path = path + [node]
        if node == goal:
            return cost, path
        for neighbour, weight in graph[node].items():
            if neighbour not in seen:
                heapq.heappush(queue, (cost + weight, neighbour, path))
    return float("inf"), []
""",
        "Add type hints to the signature and raise KeyError when start is not in the graph.",
        (
            (
                "(graph, start, goal):\n",
                "(graph: dict[str, dict[str, float]], start: str, goal: str) -> tuple[float, list[str]]:\n"
                "    if start not in graph:\n        raise KeyError(start)\n",
            ),
        ),
    ),
)
