"""One short text each of Chinese, English and code, to compare how tightly tokenizers pack them."""

CHINESE = (
    "清晨的雾气还没有散去，码头上已经挤满了等船的人。老周把行李放在石阶上，从口袋里摸出一封信，又看了一遍。"
    "信是女儿写的，说城里的工作已经安顿好，房子不大，窗外能看见一条河。他笑了笑，把信折好放回去。\n"
    "机器学习里常说的过拟合，是指模型把训练数据中的偶然细节也当成了规律。它在见过的样本上表现很好，"
    "遇到新的样本就会出错。常用的办法有增加数据、降低模型的复杂度，以及在训练时加入正则项。\n"
    "请编写一个函数，输入一个整数列表，返回其中第二大的数；如果不存在，则返回空值。\n"
)

ENGLISH = (
    "The ferry was late again, so the children counted gulls along the pier until the horn sounded. Nobody "
    "minded much: the evening was warm, and somebody had brought plums that went from hand to hand.\n"
    "A hash table stores each key in a bucket chosen by a function of the key. When two keys fall into the "
    "same bucket they have to be told apart by comparing them, so a good function spreads keys evenly and "
    "lookups take constant time on average. In 2019 the library replaced 1,250 cards with such an index.\n"
    "Write a function that takes a list of integers and returns the second largest, or nothing.\n"
)

CODE = '''import collections


def second_largest(numbers: list[int]) -> int | None:
    """Returns the second largest distinct number."""
    distinct = sorted(set(numbers), reverse=True)
    if len(distinct) < 2:
        return None
    return distinct[1]


class Inventory:
    def __init__(self, capacity=128):
        self.items = collections.Counter()
        self.capacity = capacity

    def add(self, name, amount=1):
        if sum(self.items.values()) + amount > self.capacity:
            raise ValueError(f"no room for {amount} x {name!r}")
        self.items[name] += amount  # 数量累加


for (int i = 0; i < n; ++i) {
    if (a[i] != b[i]) { std::cout << i << ": " << a[i] << "\\n"; return false; }
}
'''

SAMPLES: dict[str, str] = {"zh": CHINESE, "en": ENGLISH, "code": CODE}
