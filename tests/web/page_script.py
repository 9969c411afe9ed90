"""What the scripted model says: the first rule whose words are in the last message decides."""

MARKDOWN = """当然。下面是一个例子，也有 **bold** text and `inline code`：

## Prime numbers

1. A number above 1
2. with no divisor but itself

```python
def is_prime(n: int) -> bool:
    \"\"\"质数判断\"\"\"
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))  # 试除
```

| n | prime |
|---|:-----:|
| 7 | yes |
| 9 | no |

> Quoted once.

- [x] done
- [ ] open

See [the page](https://example.org/primes)."""

XSS = """<script>window.hacked = 1</script>
<img src=x onerror="window.hacked = 2"><svg onload="window.hacked = 3">
<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=4>
<template><img src=x onerror="window.hacked = 5"></template>
<iframe srcdoc="<script>parent.hacked = 6</script>"></iframe>

[a](javascript:window.hacked=7) [b](data:text/html,<script>hacked=8</script>) [c](JaVaScRiPt:hacked=9) [d](vbscript:x)
[e](https://example.org/"onmouseover="window.hacked=10) ![f](x" onerror="window.hacked = 11)
<a href="javascript:window.hacked=12">click</a> <javascript:window.hacked=13>

![beacon](https://evil.example/beacon.png) <https://example.org/<script>>

```html"><script>window.hacked=14</script>
</code></pre><script>window.hacked = 15</script>
```

| <img src=x onerror=window.hacked=16> | b |
|---|---|
| [x](javascript:window.hacked=17) | `</code><script>window.hacked=18</script>` |
"""

# Rule: words of the last message -> the answer. "one more" and the like tell branches from each other.
RULES = (
    ("#calculator#\n42", "The result is **42**."),
    ("#test_add#\n5", "Together they make 5."),
    ("#calculator#", "The tool did not work."),
    ("markdown", MARKDOWN),
    ("attack", XSS),
    ("six times seven", "Let me work it out.\n#calculator#\n6 * 7"),
    ("add two and three", 'I will ask the other machine.\n#test_add#\n{"a": 2, "b": 3}'),
    ("draw a bridge", "作为一款文本生成模型，我可以为您调用文生图模型。\n#text2image#\n一座红色的桥，水彩"),
    (
        "change the face",
        "I can edit it step by step.\n#InstructFace#\nChange the eye color to brown.\nMake the skin appear pink.",
    ),
    ("a tool that is not there", "See.\n#unknown_tool#\nnothing"),
    ("long", " ".join(f"word{i}" for i in range(1200))),
    ("count", "one two three four five six seven eight nine ten " * 12 + "end."),
    ("two lines", "It has both lines."),
    ("what is in it", "It has the file."),
    ("second version", "You changed the question."),
    ("hello", "Hello! How can I help you today?"),
    ("你好", "你好！很高兴见到你。今天想聊点什么？🦅"),
)


def script(context: str) -> str:
    """The answer to a context: of a chat by its last message, of a plain text by its end."""
    if "<|fim_middle|>" in context:
        return "    return a + b\n"
    if "###Assistant:" not in context:
        return "    return a + b\n" if "def add" in context else " and so on."
    question = context.rsplit("###Human:", 1)[-1].split("###Assistant:")[0]
    return " " + next((answer for words, answer in RULES if words in question), "I see.")
