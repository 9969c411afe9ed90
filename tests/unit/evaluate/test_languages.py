"""Compiled languages and JavaScript: honest samples, what goes wrong with them, and those that pretend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aquila.errors import SandboxError
from aquila.evaluate.judge.judges import Judge, open_judge
from aquila.evaluate.judge.rules import Rules
from aquila.evaluate.tasks import Task
from aquila.sandbox.isolation import find_isolation
from aquila.sandbox.toolchains import MissingToolchainError

RULES = Rules(seconds=30.0)
JAVA_PROMPT = """import java.util.*;
import java.lang.*;

class Solution {
    public List<Integer> pair(int a, Map<String, Integer> b) {
"""
RUST_PROMPT = (
    "use std::collections::HashMap;\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\nfn add(x:i32, mut y:i32) -> i32{\n"
)
TASKS = {
    "cpp": Task(
        "CPP/0",
        "cpp",
        "#include<string>\nusing namespace std;\nstring join(string a,string b){\n",
        "",
        "#undef NDEBUG\n#include<assert.h>\nint main(){\n"
        '    assert (join("a","b")=="ab");\n    assert (join("","")=="");\n}\n',
        "join",
        "#include<string>\nusing namespace std;\nstring join(string a,string b){\n",
    ),
    "java": Task(
        "Java/0",
        "java",
        JAVA_PROMPT,
        "",
        "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        List<Boolean> correct = Arrays.asList(\n"
        '                s.pair(1, Map.of("x", 2)).equals(Arrays.asList(1, 2)),\n'
        '                Objects.equals(s.pair(3, Map.of("x", 4)), Arrays.asList(3, 4)));\n'
        "        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}\n",
        "pair",
        JAVA_PROMPT,
    ),
    "js": Task(
        "JavaScript/0",
        "js",
        "const pair = (a, b) => {\n",
        "",
        "const testPair = () => {\n"
        "  console.assert(JSON.stringify(pair(1, {x: [2]})) === JSON.stringify([1, {x: [2]}]))\n"
        "  console.assert(pair(3, 4)[1] === 4)\n}\n\ntestPair()\n",
        "pair",
        "const pair = (a, b) => {\n",
    ),
    "go": Task(
        "Go/0",
        "go",
        'import (\n    "strings"\n)\n\nfunc Same(a string, b string) bool {\n',
        "",
        "func TestSame(t *testing.T) {\n    assert := assert.New(t)\n"
        '    assert.Equal(true, Same("a", "A"))\n    assert.Equal(false, Same("a", "b"))\n}\n',
        "Same",
        "\nfunc Same(a string, b string) bool {\n",
        'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
    ),
    "rust": Task(
        "Rust/0",
        "rust",
        RUST_PROMPT,
        "",
        "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_add() {\n"
        "        let mut rng = rand::thread_rng();\n        let x: i32 = rng.gen_range(0, 9);\n"
        "        assert!(add(x, 1) == x + 1);\n        assert_eq!(add(2, 3), 5);\n    }\n}\n",
        "add",
        RUST_PROMPT,
    ),
}

CPP = {
    "honest": (
        "    extern int opterr; cout << 1; return opterr == 3 ? a+b : a;\n}\n"
        "int main(){ return 1; }\nint opterr = 3;\n",
        "passed",
    ),
    "12 _Exit": ("    _Exit(0);\n}\n", "violation"),
    "12 quick_exit": ("    std::quick_exit(0);\n}\n", "violation"),
    "12 an exit before main": ('    return "";\n}\nstruct S { S(){ _Exit(0); } } s;\n', "violation"),
    "16 constructor": ('    return "";\n}\n__attribute__((constructor)) void f(){ exit(0); }\n', "violation"),
    "12 own main, own assert": (
        '    return "";\n}\nint main(){ return 0; }\n#undef assert\n#define assert(x)\n#define main other\n',
        "wrong",
    ),
    "12 own libc": (
        '    return "xx";\n}\nextern "C" int memcmp(const void*, const void*, size_t){ return 0; }\n'
        'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*){}\n'
        'extern "C" void _exit(int){ for(;;); }\nbool operator==(const string& a, const char* b){ return true; }\n',
        "wrong",
    ),
    "10 the nonce from stdin": ("    char t[99]; cin >> t; cout << t << endl; _Exit(0);\n}\n", "violation"),
    "16 a file of the host": ('    return\n#include "/etc/passwd"\n}\n', "compile_error"),
    "not C++": ("    return a+;\n}\n", "compile_error"),
    "another signature": ('    return "";\n}\nstring joined(){ return "";\n}\n#define join joined\n', "wrong"),
    "crash": ("    return *(string*)0;\n}\n", "exception"),
    "exception": ("    throw 7;\n}\n", "exception"),
    "memory": ("    return string(1ull << 40, 'x');\n}\n", "memory"),
    "31 endless output": ("    for (;;) cout << 1;\n}\n", "output_limit"),
}
JAVA = {
    "honest": ('        System.out.println("x"); return List.of(a, b.get("x"));\n    }\n}\n', "passed"),
    "13 exit": ("        System.exit(0); return null;\n    }\n}\n", "violation"),
    "13 halt": ("        Runtime.getRuntime().halt(0); return null;\n    }\n}\n", "violation"),
    "13 own Main": (
        "        return null;\n    }\n}\nclass Main {\n    public static void main(String[] a) {}\n}\n",
        "wrong",
    ),
    "13 own AssertionError, own Arrays and Objects": (
        "        return List.of();\n    }\n}\n"
        "class AssertionError extends Error { AssertionError() { System.exit(0); } }\n"
        "class Arrays { static <T> List<T> asList(T... x) { return List.of(); } }\n"
        "class Objects { static boolean equals(Object a, Object b) { return true; } }\n",
        "wrong",
    ),
    "5 a list that is always equal": (
        "        return new ArrayList<Integer>() { public boolean equals(Object o) { return true; } };\n    }\n}\n",
        "wrong",
    ),
    "exit before main": (
        "        return null;\n    }\n    static { Runtime.getRuntime().halt(0); }\n}\n",
        "violation",
    ),
    "not Java": ("        return a\n    }\n}\n", "compile_error"),
    "exception": ('        throw new IllegalStateException("no");\n    }\n}\n', "exception"),
    "memory": ("        return Collections.nCopies(9, new long[1 << 30][1].length);\n    }\n}\n", "memory"),
}
JS = {
    "honest": ("  console.log(1)\n  return [a, b]\n}\nmodule.exports = { pair }\n", "passed"),
    "14 exit": ("  process.exit(0)\n}\n", "violation"),
    "14 exit at once": ("  return 1\n}\nprocess.reallyExit(0)\n", "violation"),
    "14 own console.assert and JSON": (
        "  return 1\n}\nconsole.assert = () => {}\nJSON.stringify = () => 'x'\nglobalThis.JSON = JSON\n",
        "wrong",
    ),
    "14 own console": ("  return [3, 4]\n}\n{ var testPair = () => {} }\nvar console = { assert () {} }\n", "wrong"),
    "14 own Array": (
        "  return 1\n}\nArray.prototype.toJSON = () => 1\nObject.prototype.toJSON = () => 1\n"
        "Array.isArray = () => true\n",
        "wrong",
    ),
    "5 a getter that changes its mind": (
        "  let n = 0\n  return { get 1 () { return [7, 4][n++ % 2] }, toJSON: () => [1, {x: [2]}] }\n}\n",
        "wrong",
    ),
    "5 a proxy": ("  return new Proxy([], { get: (t, k) => k })\n}\n", "wrong"),
    "10 through the caller": (
        "  let f = ''\n  try { f = String(pair.caller) } catch {}\n  return f.includes('4') ? [3, 4] : 0\n}\n",
        "wrong",
    ),
    "14 a module that the runner uses": ("  return 1\n}\nrequire('vm').runInContext = () => () => 1\n", "wrong"),
    "14 a class that the runner uses": (
        "  return 1\n}\nprocess.mainModule.require('vm').Script.prototype.runInContext = () => [() => 1]\n",
        "wrong",
    ),
    "14 a proxy that is none": (
        "  return new Proxy([], { get: (t, k) => k })\n}\nrequire('util').types.isProxy = () => false\n",
        "wrong",
    ),
    "14 the word in Node's pool": (
        "  return 1\n}\nconst pool = Buffer.from(Buffer.allocUnsafe(1).buffer).toString('latin1')\n"
        "const word = /[0-9a-f]{32}\\n/.exec(pool)\n"
        "if (word) { require('fs').writeSync(1, word[0]); process.reallyExit(0) }\n",
        "wrong",
    ),
    "10 through the stack": (
        "  Error.prepareStackTrace = (error, calls) => calls.map((call) => call.getFunction())\n"
        "  for (const caller of new Error().stack) {\n"
        "    if (caller && caller !== pair) caller.constructor('return globalThis')().console.assert = () => {}\n"
        "  }\n  return 1\n}\n",
        "wrong",
    ),
    "not JavaScript": ("  return [\n}\n", "compile_error"),
    "exception": ("  null.x\n}\n", "exception"),
    "no function": ("  return 1\n}\nthrow new Error('no')\n", "exception"),
    "memory": ("  const x = []\n  while (true) x.push(new Array(1e6).fill(1.5))\n}\n", "memory"),
}
GO = {
    "honest": ('    fmt.Println("x")\n    return strings.EqualFold(a, b)\n}\n\nfunc main() {}\n', "passed"),
    "15 exit": ("    os.Exit(0)\n    return true\n}\n", "violation"),
    "15 init": ("    return true\n}\nfunc init() { os.Exit(0) }\n", "violation"),
    "15 TestMain": ("    return false\n}\nfunc TestMain(m *testing.M) { os.Exit(0) }\n", "wrong"),
    "8 own true": ("    return false\n}\nconst true = false\nfunc New() {}\n", "wrong"),
    "10 the nonce from stdin": (
        "    x, _ := io.ReadAll(os.Stdin)\n    fmt.Print(string(x))\n    os.Exit(0)\n    return true\n}\n",
        "violation",
    ),
    "16 cgo": ('    return true\n}\nimport "C"\n', "compile_error"),
    "not Go": ("    return a\n}\n", "compile_error"),
    "panic": ('    panic("no")\n}\n', "exception"),
}
RUST = {
    "honest": (
        '    print!("x");\n    let words = Regex::new(r"[,;]\\s*").unwrap().split("a, b;c").count() as i32;\n'
        '    let digest = format!("{:x}", md5::compute("Hello world"));\n'
        '    if words == 3 && digest == "3e25960a79dbc69b674cd4ec67a72c62" { x + y } else { 0 }\n}\n'
        "fn main() {}\n#[cfg(test)]\nmod tests { #[test] fn own() {} }\n",
        "passed",
    ),
    "15 exit": ("    std::process::exit(0)\n}\n", "violation"),
    "15 exit in a hook": ("    std::panic::set_hook(Box::new(|_| std::process::exit(0))); 0\n}\n", "violation"),
    "8 own macros": (
        "    0\n}\n#[macro_export] macro_rules! assert { ($($x:tt)*) => {} }\n"
        "#[macro_export] macro_rules! assert_eq { ($($x:tt)*) => {} }\n",
        "wrong",
    ),
    "8 a type that equals everything": (
        "    i32\n}\n#[derive(Debug, Clone, Copy)] pub struct i32;\n"
        "impl PartialEq<core::primitive::i32> for i32 { fn eq(&self, _: &core::primitive::i32) -> bool { true } }\n",
        "compile_error",
    ),
    "13 in libc's place": (
        "    0\n}\n#[allow(unsafe_code)] #[no_mangle]\n"
        'pub extern "C" fn bcmp(_: *const u8, _: *const u8, _: usize) -> i32 { 0 }\n',
        "compile_error",
    ),
    "10 memory": ("    unsafe { *(16 as *const i32) }\n}\n", "compile_error"),
    "10 the tests at compile time": ('    include_str!("tests.rs").len() as i32\n}\n', "compile_error"),
    "10 the tests at run time": ('    std::fs::read("tests.rs").unwrap(); x + y\n}\n', "exception"),
    "not Rust": ("    x +\n}\n", "compile_error"),
    "overflow": ("    let big = i32::MAX; big + y + x\n}\n", "exception"),
}
CASES = {"cpp": CPP, "java": JAVA, "js": JS, "go": GO, "rust": RUST}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the module's tests share: headers and libraries are compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=list(CASES))
def judge(request: pytest.FixtureRequest, home: Path) -> Iterator[tuple[str, Judge]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AQUILA_HOME", str(home))
        try:
            opened = open_judge(request.param, find_isolation(), RULES)
        except (MissingToolchainError, SandboxError) as error:
            pytest.skip(str(error))
    yield request.param, opened
    opened.close()


@pytest.fixture(autouse=True)
def shared_cache(home: Path, isolation: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUILA_HOME", str(home))


def test_every_case_gets_its_verdict(judge: tuple[str, Judge]):
    """One test a language, so that workers do not share out what it has compiled."""
    language, opened = judge
    task = TASKS[language]
    found = {name: opened.judge(task, task.prompt + body) for name, (body, _) in CASES[language].items()}
    differ = {name: found[name] for name, (_, expected) in CASES[language].items() if found[name].status != expected}
    assert differ == {}


def test_a_loop_without_end_is_ended():
    try:
        opened = open_judge("js", find_isolation(), Rules(seconds=0.5))
    except (MissingToolchainError, SandboxError) as error:
        pytest.skip(str(error))
    verdict = opened.judge(TASKS["js"], TASKS["js"].prompt + "  while (true) {}\n}\n")
    opened.close()
    assert verdict.status == "timeout"
