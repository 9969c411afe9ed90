"""What of a model's text is judged: the corpus of texts that fool those who count braces and margins."""

import pytest

from aquila.evaluate.chat_answer import extract
from aquila.evaluate.tasks import Task, read_benchmark, reference_solution
from aquila.evaluate.truncation import is_complete, truncate
from parts import shared_data

PROMPTS = {
    "python": 'from typing import List\n\n\ndef solve(x: int) -> int:\n    """Doc."""\n',
    "cpp": "#include<vector>\nusing namespace std;\nint solve(int x){\n",
    "java": "import java.util.*;\n\nclass Solution {\n    public int solve(int x) {\n",
    "js": "/* Doc. */\nconst solve = (x) => {\n",
    "go": 'import (\n    "math"\n)\n\n// Doc.\nfunc Solve(x int) int {\n',
    "rust": "/* Doc. */\nfn solve(x: i32) -> i32 {\n",
}
NAMES = {language: "Solve" if language == "go" else "solve" for language in PROMPTS}


def task(language: str) -> Task:
    return Task("T/0", language, PROMPTS[language], "", "", NAMES[language])


CORPUS = {
    "python": [
        ("    return 1\n", "\ndef other():\n    pass\n"),
        ("    return 1\n", "\nprint(solve(1))"),
        ("    return 1\n", "\n@"),
        ("    return 1\n", "\n\n\nde"),  # half a line
        ("    return 1\r\n", "\r\nclass A:\r\n    pass\r\n"),
        ("    def inner(y):\n        return {'a': y}\n    return inner(x)\n", "\nsolve(1)\n"),
        ("    @cache\n    def inner(y):\n        return y\n\n    return inner(x)\n", "\n@cache\ndef f(): pass\n"),
        ("    text = '''\nat the margin\ndef no(): pass\n'''\n    return len(text)\n", "\nx = 1\n"),
        ('    text = """\\"""\nmargin"""\n    return 1\n', "\nx = 1\n"),
        ("    return [\n1,\n2,\n][x]\n", "\nassert solve(1)"),
        ('    # 中文注释：见 \'(\' 与 """\n    return x\n', "\nprint('好')\n"),
        ("# 在行首的注释\n    return x\n", "\nif __name__ == '__main__':\n    main()\n"),
        ("    s = '#'  # it's (\n    return s\n", "\nprint(1)\n"),
        ("    return '\\'' + \"(\"\n", "\nprint(1)\n"),
        ("\n    if x:\n\n        return 1\n    return 2\n", "\nclass B: ...\n"),
        ("    return x + \\\n1\n", "\nprint(1)\n"),
    ],
    "cpp": [
        ("    return 1;\n}\n", "\nint main(){ return 0; }\n"),
        ("    char c='{'; string s=\"}}\"; // }\n    return 1; /* } */\n}\n", "int other(){}"),
        ("    if (x) { return 1'000'000; }\n    return '\\'';\n}\n", "}\n"),
        ('    auto s = R"x(} )" } )x";\n    return 0;\n}\n', "\nint f(){}"),
        ("    auto f=[](int a){ return a; };\n    return f(x);\n}\n", "// 注释 }\n"),
    ],
    "java": [
        ("        return 1;\n    }\n}\n", "\nclass Main { }\n"),
        ('        char c = \'}\'; String s = "\\"}";\n        return 1;\n    }\n}\n', "}\n"),
        ('        String s = """\n            } "quoted" }\n            """;\n        return 1;\n    }\n}\n', "x"),
        ("        return 1;\n    }\n\n    int other() { return 2; }\n}\n", "\npublic class Main {"),
    ],
    "js": [
        ("  return 1\n}\n", "\nconsole.log(solve(1))\n"),
        ("  return `}${ `{${x}}` }}`\n}\n", "\nmodule.exports = { solve }\n"),
        ("  const r = /[}/]{2}/.test(x) ? '}' : \"}\"\n  return x / 2 / 3 // }\n}\n", "}\n"),
        ("  const f = function () { return { a: 1 } }\n  return f().a\n};\n", "\nsolve(1)\n"),
    ],
    "go": [
        ("    return 1\n}\n", "\nfunc main() {}\n"),
        ("    s := `}` + \"}\"\n    r := '}'\n    // 中文 }\n    return len(s) + int(r)\n}\n", "\nfunc x() {}\n"),
        ("    f := func(a int) int {\n        return a\n    }\n    return f(x)\n}\n", "}"),
    ],
    "rust": [
        ("    return 1;\n}\n", "\nfn main() {}\n"),
        ('    let s = r#"} "{ "#; let c = \'}\'; let n: &\'static str = "}";\n    s.len() as i32\n}\n', "}\n"),
    ],
}
CASES = [(language, *case) for language, cases in CORPUS.items() for case in cases]


def same(found: str, wanted: str) -> bool:
    return found.rstrip().removeprefix("\n") == wanted.rstrip().removeprefix("\n")


@pytest.mark.parametrize(("language", "answer", "rest"), CASES)
def test_what_follows_the_function_is_cut_off(language, answer, rest):
    assert same(truncate(answer + rest, task(language)).text, answer)
    assert same(truncate("\n" + answer + rest, task(language)).text, answer)


@pytest.mark.parametrize(("language", "answer", "rest"), CASES)
def test_a_text_is_complete_only_where_more_would_be_cut_off(language, answer, rest):
    """Ending an answer early, token by token, must not change what is judged."""
    text = answer + rest
    first = next((end for end in range(len(text) + 1) if is_complete(text[:end], task(language))), None)
    if first is not None:
        assert same(truncate(text[:first], task(language)).text, answer)
    if language != "java":
        assert first is not None or "\n" not in rest


@pytest.mark.parametrize("language", list(PROMPTS))
def test_writing_the_signature_again_is_an_answer(language):
    """The `\\ndef ` trap: cut at the first definition, it would be nothing."""
    body, rest = CORPUS[language][0]
    cut = truncate(PROMPTS[language] + body + rest, task(language)).text
    if language == "python":
        assert same(cut, PROMPTS["python"] + body)
    else:
        assert same(cut, body)


def test_a_python_answer_may_begin_with_imports_and_helpers_and_its_own_signature():
    head = "\nimport math\n\nLIMIT: int = 3\n\n@cache\ndef helper(a):\n    return a\n"
    text = head + "\ndef solve(x):\n    return helper(x)\n"
    assert same(truncate(text + "\nprint(solve(1))\n", task("python")).text, text)
    assert truncate("\nprint('no')\ndef solve(x):\n    return 1\n", task("python")).text == ""
    assert truncate("\ndef another(x):\n    return 1\n", task("python")).text == ""


def test_a_java_method_without_its_class_is_closed():
    cut = truncate("        return 1;\n    }\n\n    int half() {\n        if (x", task("java")).text
    assert cut == "        return 1;\n    }\n}\n"


def test_what_was_never_closed_stays_as_it_is():
    assert truncate("    if (x) { return 1;", task("cpp")).text == "    if (x) { return 1;\n"
    assert truncate('    text = """open\nand no end', task("python")).text == '    text = """open\n'


@pytest.mark.parametrize("language", ["python", "cpp", "java", "js", "go"])
def test_every_published_solution_survives(language):
    """But Go/72 and CPP/94, which go on behind the function: a helper, and an `#undef`."""
    benchmark = read_benchmark("humaneval-x", shared_data("humaneval"), language)
    rest = CORPUS[language][0][1]
    for each in benchmark.tasks.values():
        solution = reference_solution(each)
        if each.task_id not in ("Go/72", "CPP/94"):
            assert truncate("\n" + solution + rest, each).text.split() == solution.split(), each.task_id
            assert is_complete(solution + rest, each), each.task_id


CHAT = [
    ("python", "```python\n{code}```\nIt works.", "    return 1\n"),
    ("python", "Sure!\n```\n{code}\nprint(solve(1))\nassert solve(2)\n```", "    return 1\n"),
    ("python", "```python\n{code}", "    return 1\n"),  # ended by the limit
    ("python", "```bash\npip install x\n```\n```py\n{code}```\n```python\nsolve(3)\n```", "    return 1\n"),
    ("python", "  ```python\n{code}  ```", "    return 1\n"),
    ("python", "当然：\n~~~python\n{code}~~~\n完成。", "    return 1\n"),
    ("python", "Here:\n{code}", "    return 1\n"),
]


@pytest.mark.parametrize(("language", "frame", "body"), CHAT)
def test_the_program_is_found_in_a_conversation(language, frame, body):
    cut = extract(frame.replace("{code}", PROMPTS[language] + body), task(language))
    names: dict = {}
    exec(PROMPTS[language] + cut.text, names)
    assert names["solve"](1) == 1
    assert "print" not in cut.text
    assert "assert" not in cut.text


def test_a_body_alone_is_indented():
    assert extract("```python\nreturn x\n```", task("python")).text == "    return x\n"


@pytest.mark.parametrize("language", ["js", "go", "java", "rust"])
def test_helpers_of_a_conversation_come_along(language):
    helper = {
        "js": "function helper(y) { return y }",
        "go": "func helper(y int) int { return y }",
        "java": "    int helper(int y) { return y; }",
        "rust": "fn helper(y: i32) -> i32 { y }",
    }[language]
    head, _, own = PROMPTS[language].rstrip("\n").rpartition("\n")
    end = "\n    }\n}" if language == "java" else "\n}"
    cut = extract(f"```{language}\n{head}\n{helper}\n{own}\n    return 1;{end}\n```\nDone.", task(language))
    assert cut.text.split("\n")[1] == "    return 1;"
    assert helper in cut.text
    assert "Done" not in cut.text
    assert cut.text.count("}") == (3 if language == "java" else 2)


def test_helpers_in_cpp_come_first_so_the_program_is_whole():
    cut = extract("```cpp\nint helper(int y){ return y; }\nint solve(int x){ return helper(x); }\n```", task("cpp"))
    assert cut.whole
    assert cut.text.index("using namespace") < cut.text.index("helper(int y)") < cut.text.index("solve(int x)")
    assert cut.text.count("int solve(") == 1
