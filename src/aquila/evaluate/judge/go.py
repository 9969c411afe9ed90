"""Go: the sample is a package of its own, which the tests' package imports.

So nothing that the sample declares, not even a `true` of its own, is in the tests' scope. The compiler and the linker
are called directly, with the standard library compiled once and kept in the cache folder: `go build` would want a cache
that it can write to, and take ten times as long.

Imports are what the original harness gets wrong: it looks at the sample's text only, and by substring. Here each file
is given what it uses, strings and comments aside (known_issues in benchmarks.yaml).
"""

import hashlib
import io
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from aquila.errors import SandboxError
from aquila.evaluate.judge.marked import Plan, support_file
from aquila.evaluate.tasks import Task
from aquila.files import cache_dir
from aquila.sandbox.box import Sandbox
from aquila.sandbox.isolation import Isolation
from aquila.sandbox.job import MIB, Job, Limits, Step
from aquila.sandbox.programs import BUILD_LIMITS, GO_ENVIRONMENT
from aquila.sandbox.toolchains import Toolchain, binds_of

_LIBRARY = "go-library"
ASSERT = "github.com/stretchr/testify/assert"
# That the original harness knows.
ORIGINAL_PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
_PACKAGES = (  # what a sample may use
    *ORIGINAL_PACKAGES,
    *("bufio", "container/heap", "container/list", "container/ring", "encoding/hex", "encoding/json", "errors"),
    *(
        "hash/fnv",
        "io",
        "log",
        "math/big",
        "math/bits",
        "math/cmplx",
        "os",
        "reflect",
        "sync",
        "text/template",
        "unicode",
    ),
    *("unicode/utf8", "crypto/sha256", "encoding/binary", "encoding/base64", "context", "sync/atomic", "testing"),
)
_HIDDEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
_IMPORTS = re.compile(r'^import\s+(?:\([^)]*\)|(?:[\w.]+\s+)?"[^"]*")[^\n]*\n?', re.MULTILINE)
_FIRST = re.compile(r"^(?:func|type|var|const)\b", re.MULTILINE)  # behind which no import may stand
_PACKAGE = re.compile(r"^package\s+\w+[^\n]*\n?", re.MULTILINE)
_PATH = re.compile(r'"([^"]+)"')
_BUILD_LIBRARY = f"""
set -e
go list -export -deps -f '{{{{if .Export}}}}{{{{.ImportPath}}}} {{{{.Export}}}}{{{{end}}}}' {" ".join(_PACKAGES)} > list
mkdir out
while read -r path file; do
    mkdir -p "out/$(dirname "$path")"
    cp "$file" "out/$path.a"
    echo "packagefile $path=$PWD/out/$path.a" >> config
done < list
mkdir -p out/aquila out/{Path(ASSERT).parent}
go tool compile -p aquila/nonce -complete -importcfg config -o out/aquila/nonce.a nonce.go
go tool compile -p {ASSERT} -complete -importcfg config -o out/{ASSERT}.a assert.go
tar -cf - -C out .
"""
_LIBRARY_LIMITS = Limits(
    600, 4096 * MIB, max_processes=256, max_files=1024, output_bytes=512 * MIB, file_bytes=512 * MIB
)


class Go:
    name = "go"
    limits = Limits(memory_bytes=1024 * MIB, max_processes=128)
    disk_bytes = 128 * MIB
    out_of_memory = (b"out of memory", b"cannot allocate memory")

    def __init__(self) -> None:
        self._config = ""
        self._tools: dict[str, str] = {}

    def prepare(self, isolation: Isolation, tools: Toolchain) -> dict[str, Path]:
        folder = _library(isolation, tools)
        self._config = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.a")))
        return {_LIBRARY: folder}

    def close(self) -> None:
        pass

    def plan(self, sandbox: Sandbox, tools: Toolchain, task: Task, program: str) -> Plan:
        go, library = tools.inside("go", sandbox), sandbox.inside(_LIBRARY)
        config = "".join(f"packagefile {name[:-2]}={library}/{name}\n" for name in self._config.splitlines())
        compiler = [go, "tool", "compile", "-complete", "-importcfg", "config"]
        commands = [
            [*compiler, "-p", "judged", "-o", "judged.a", "sample.go"],
            [*compiler, "-p", "main", "-o", "main.a", "tests.go", "main.go"],
            [go, "tool", "link", "-importcfg", "config", "-s", "-w", "-o", "tests", "main.a"],
        ]
        builds = [Step(command, BUILD_LIMITS["go"], GO_ENVIRONMENT) for command in commands]
        files = {
            "config": f"{config}packagefile judged=judged.a\n",
            "sample.go": _sample(program),
            "tests.go": _tests(task),
            "main.go": _main(task),
        }
        return Plan(["./tests"], builds, files)


def _sample(program: str) -> str:
    """The program under another package's name, importing what it uses. A `main` of its own is then just a function."""
    first = _FIRST.search(program)
    head, body = (program[: first.start()], program[first.start() :]) if first else (program, "")
    own = [path for found in _IMPORTS.findall(head) for path in _PATH.findall(found)]
    code = _IMPORTS.sub("", _PACKAGE.sub("", head, count=1)) + body
    paths = _used(code, {*_PACKAGES, *own} & set(_PACKAGES))
    return _file("judged", ['_ "aquila/nonce"', *(f'"{path}"' for path in paths)], code)


def _tests(task: Task) -> str:
    given = set(_PATH.findall(task.setup))  # some of them for the sample, which stood in the same file
    paths = _used(task.test, given) + [path for path in _used(task.test, set(_PACKAGES)) if path not in given]
    return _file("main", ['. "judged"', *(f'"{path}"' for path in paths)], task.test)


def _main(task: Task) -> str:
    calls = "".join(
        f"\t\t{name}(&testing.T{{}})\n" for name in re.findall(r"^ ?func (Test\w+)\(", task.test, re.MULTILINE)
    )
    code = f"func main() {{\n\taquilaNonce.Run(func() {{\n{calls}\t}})\n}}\n"
    return _file("main", ['aquilaNonce "aquila/nonce"', '"testing"'], code)


def _file(package: str, imports: list[str], code: str) -> str:
    lines = "".join(f"\t{line}\n" for line in imports)
    return f"package {package}\n\nimport (\n{lines})\n\n{code}"


def _used(code: str, known: set[str]) -> list[str]:
    """Packages whose name stands before a dot in the code itself; the first by path where two have one name."""
    seen = _HIDDEN.sub(" ", code)
    found: dict[str, str] = {}
    for path in sorted(known):
        name = path.rpartition("/")[2]
        if re.search(rf"(?<![\w.]){name}\.", seen):
            found.setdefault(name, path)
    return sorted(found.values())


def _library(isolation: Isolation, tools: Toolchain) -> Path:
    """The standard library and our two packages as archives."""
    sources = {name: support_file(f"go/{name}") for name in ("nonce.go", "assert.go")}
    return kept_folder("go", _BUILD_LIBRARY, sources, isolation, tools)


def kept_folder(name: str, script: str, files: dict[str, str], isolation: Isolation, tools: Toolchain) -> Path:
    """What a script that calls Go writes to stdout as an archive, unpacked in the cache folder and kept there."""
    text = "\0".join([tools.version(), script, *files.values()])
    folder = cache_dir() / "judge" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    with Sandbox(isolation, binds=binds_of([tools])) as sandbox:
        go = tools.inside("go", sandbox)
        # without -trimpath: Go up to 1.19 has its library compiled, and takes it only with the flags it was made with
        environment = GO_ENVIRONMENT | {"PATH": f"{Path(go).parent}:/usr/bin:/bin", "GOFLAGS": "-mod=mod"}
        step = Step(["sh", "-c", script], _LIBRARY_LIMITS, environment)
        (outcome,) = sandbox.run(Job([step], files, disk_bytes=2048 * MIB, max_inodes=100_000))
    if not outcome.ok:
        said = outcome.stderr.decode(errors="replace").strip()[-500:]
        raise SandboxError(f"Go's standard library could not be compiled ({outcome.status} {outcome.code}): {said}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    with tarfile.open(fileobj=io.BytesIO(outcome.stdout)) as archive:
        archive.extractall(partial, filter="data")
    partial.chmod(0o755)
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return folder
