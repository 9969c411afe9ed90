"""`--judge official`: the original harnesses' rules, and each place where they and trusted judging part."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from aquila.errors import ConfigError, SandboxError
from aquila.evaluate.judge.judges import Judge, open_judge
from aquila.evaluate.judge.official_programs import official_program
from aquila.evaluate.judge.rules import Rule, Rules
from aquila.evaluate.selftest import self_test
from aquila.evaluate.tasks import Task, read_benchmark
from aquila.sandbox.isolation import find_isolation
from aquila.sandbox.toolchains import MissingToolchainError
from parts import shared_data

LANGUAGES = ("python", "cpp", "java", "js", "go", "rust")
# The task, what the sample says behind its prompt (@: the published solution), and two verdicts: official, trusted.
PARTINGS = {
    "python": {
        "a helper below, which the original cuts off": (
            "Python/2",
            "    return rest(number)\n\ndef rest(number):\n    return number % 1.0\n",
            ("exception", "passed"),
        ),
        "an answer that equals everything": (
            "Python/2",
            "    class Any(float):\n        def __eq__(self, other): return True\n"
            "        def __sub__(self, other): return 0\n    return Any(7)\n",
            ("passed", "wrong"),
        ),
    },
    "cpp": {
        "an early end": ("CPP/0", "    exit(0);\n}\n", ("passed", "violation")),
        "tests that call the library's function": ("CPP/23", "    return -1;\n}\n", ("passed", "wrong")),
        "a main of its own": ("CPP/0", "@int main(){ }\n", ("compile_error", "passed")),
    },
    "java": {
        "an early end": ("Java/0", "        System.exit(0); return true;\n    }\n}\n", ("passed", "violation")),
        "output, which counts in JavaScript alone": (
            "Java/0",
            "        System.out.println();\n@",
            ("passed", "passed"),
        ),
        "an AssertionError of its own": (
            "Java/0",
            "        return true;\n    }\n}\nclass AssertionError extends RuntimeException {\n"
            "    AssertionError() { System.exit(0); }\n}\n",
            ("passed", "wrong"),
        ),
    },
    "js": {
        "output": ("JavaScript/0", "  console.log(1)\n@", ("wrong", "passed")),
        "output on stderr": ("JavaScript/0", "  console.error(1)\n@", ("wrong", "passed")),
        "an early end": ("JavaScript/0", "  process.exit(0)\n}\n", ("passed", "violation")),
        "an early end that says it failed": ("JavaScript/0", "  process.exit(1)\n}\n", ("passed", "exception")),
        "an assertion of its own": ("JavaScript/0", "  return 1\n}\nconsole.assert = () => {}\n", ("passed", "wrong")),
    },
    "go": {
        "an import that only the tests need": (
            "Go/2",
            "    return number - float64(int(number))\n}\n",
            ("compile_error", "passed"),
        ),
        "a package that is not among ten": ("Go/0", "    _ = unicode.IsUpper('a')\n@", ("compile_error", "passed")),
        "a package that a comment mentions": ("Go/0", "    // sort.Ints would do\n@", ("compile_error", "passed")),
        "what vet objects to": ("Go/0", '    fmt.Printf("%d", "!")\n@', ("compile_error", "passed")),
        "a TestMain that runs nothing": (
            "Go/0",
            "    return math.Abs(1) > 0\n}\n\nfunc TestMain(m *testing.M) {}\n",
            ("passed", "wrong"),
        ),
    },
    "rust": {
        "an early end": ("Rust/0", "    std::process::exit(0)\n}\n", ("passed", "violation")),
        "tests that are a comment": (
            "Rust/32",
            "    0.5\n}\nfn find_zero(_: &Vec<f64>) -> f64 { 7.5 }\n",
            ("passed", "wrong"),
        ),
        "unsafe code": ("Rust/0", "    unsafe { std::hint::black_box(()) };\n@", ("passed", "compile_error")),
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the module's tests share: libraries are compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared_cache(home: Path, isolation: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUILA_HOME", str(home))


def tasks_of(language: str) -> Mapping[str, Task]:
    return read_benchmark("humaneval-x", shared_data("humaneval"), language).tasks


@contextmanager
def judging(language: str, rule: Rule, seconds: float = 30.0) -> Iterator[Judge]:
    try:
        opened = open_judge(language, find_isolation(), Rules(rule, seconds=seconds, call_seconds=seconds))
    except (MissingToolchainError, SandboxError) as error:
        pytest.skip(str(error))
    with closing(opened):
        yield opened


@pytest.mark.timeout(300)  # Go's library is compiled twice, for each rule's own way to use it
@pytest.mark.parametrize("language", LANGUAGES)
def test_both_rules_on_what_they_part_over(language: str):
    tasks = tasks_of(language)
    samples = {
        what: (tasks[task_id], tasks[task_id].prompt + text.replace("@", tasks[task_id].canonical_solution))
        for what, (task_id, text, _) in PARTINGS[language].items()
    }
    with judging(language, "official") as official, judging(language, "trusted") as trusted:
        found = {
            what: (official.judge(*sample).status, trusted.judge(*sample).status) for what, sample in samples.items()
        }
    assert found == {what: verdicts for what, (_, _, verdicts) in PARTINGS[language].items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_published_solutions_pass_and_wrong_ones_do_not(language: str):
    """Those that need a package which is not here (22, 162) among them."""
    tasks = list(tasks_of(language).values())
    with judging(language, "official") as judge:
        for number in (0, 22, 53, 162):
            task = tasks[number]
            verdict = judge.judge(task, task.prompt + task.canonical_solution)
            assert verdict.passed, (task.task_id, verdict)
        wrong = tasks[0].canonical_solution.replace("<", ">")
        assert judge.judge(tasks[0], tasks[0].prompt + wrong).status == "wrong"
        assert judge.judge(tasks[0], tasks[0].prompt + "    return (\n}\n").status in ("compile_error", "exception")


def test_building_is_part_of_the_time():
    task = tasks_of("cpp")["CPP/0"]
    program = task.prompt + task.canonical_solution
    with judging("cpp", "official", seconds=0.01) as judge:
        verdict = judge.judge(task, program)
    assert (verdict.status, verdict.detail) == ("timeout", "while it was compiled")


def test_go_gets_the_packages_that_the_sample_mentions():
    """And not those whose name is part of another one's in the test file's head: Go/50 has math/rand."""
    task = tasks_of("go")["Go/50"]
    assert '"math/rand"' in task.setup
    text = official_program(task, task.prompt + "    x := math.Abs(1) + strconv.Itoa(2) // sort.\n}\n")
    head = text[: text.index("func ")]
    assert [name for name in ("math", "strconv", "sort", "strings") if f'"{name}"' in head] == ["strconv", "sort"]
    other = tasks_of("go")["Go/2"]
    assert '"math"' in other.imports
    assert '"math"' not in official_program(other, other.prompt + "    return 0.5\n}\n")


def test_cpp_gets_the_headers_that_the_prompt_lacks():
    task = tasks_of("cpp")["CPP/0"]
    text = official_program(task, task.prompt + task.canonical_solution)
    assert text.startswith("#include<stdlib.h>\n#include<algorithm>\n#include<string>\n#include<climits>\n")
    assert text.count("#include<vector>") == 1


def test_a_language_that_no_original_judges_is_refused():
    with pytest.raises(ConfigError, match="no official rule for cobol, only for python, cpp, go, java, js, rust"):
        open_judge("cobol", find_isolation(), Rules("official"))


def test_the_self_test_names_what_is_known_to_be_broken():
    """As published, JavaScript/112 fails its own tests; trusted judging has another solution."""
    benchmark = read_benchmark("humaneval-x", shared_data("humaneval"), "js")
    two = {task_id: benchmark.tasks[task_id] for task_id in ("JavaScript/112", "JavaScript/113")}
    some, walls = replace(benchmark, tasks=two), find_isolation()
    result = self_test(some, walls, rule="official", num_workers=1)
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.passed == 1
    (line,) = result.failures
    assert line.startswith("JavaScript/112: the reference solution got wrong: Assertion failed (known: the published")
    assert self_test(some, walls, num_workers=1).failures == ()
