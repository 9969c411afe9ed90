"""What `aquila data peek`, `preview` and `validate` print.

Learned text is green, everything else dim; without a terminal it stands between ⟦ and ⟧ instead.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from aquila.data.loader import Loader
    from aquila.data.sequences import Piece
    from aquila.tokenizer.tokenizer import Tokenizer
    from aquila.train.recipe import Recipe

# Control characters of a text would steer the terminal; newline and tab may
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def print_peek(path: Path, overrides: Sequence[str], *, step: int, rows: int, as_json: bool) -> None:
    """Rows of the batch of a step, with where each comes from."""
    from aquila.train.plan import make_plan

    plan = make_plan(_recipe_for_one(path, overrides), 1)
    loader, tokenizer = plan.loader, plan.tokenizer
    batch = loader.batch(step)
    places = loader.places(step)[:rows]
    if as_json:
        shown = [
            {
                "source": place.source,
                "epoch": place.epoch,
                "index": place.index,
                "input_ids": batch.input_ids[row].tolist(),
                "labels": batch.labels[row].tolist(),
                "document_ids": batch.document_ids[row].tolist(),
                "positions": batch.positions[row].tolist(),
            }
            for row, place in enumerate(places)
        ]
        record = {"step": step, "digest": loader.digest, "rows": shown, "report": loader.report(plan.steps)}
        print(json.dumps(record, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"step {step} of {plan.steps}: {loader.global_batch_size} sequences of {loader.sequence_length} tokens, "
        f"{batch.num_targets:,} learned; data {loader.digest[:12]}"
    )
    for row, place in enumerate(places):
        documents = int(batch.document_ids[row].max()) + 1
        console.print(
            f"\nrow {row}: {place.source}, sequence {place.index}, epoch {place.epoch}; {documents} documents",
            style="bold",
        )
        for document in range(documents):
            chosen = batch.document_ids[row] == document
            ids, labels = batch.input_ids[row][chosen], batch.labels[row][chosen]
            console.print(_document_text(console, tokenizer, ids, labels))
    _print_shares(console, loader, plan.steps)


def print_preview(
    files: Sequence[Path], tokenizer: str, template: str | None, *, count: int, skip: int, as_json: bool
) -> None:
    """Conversations as they are learned."""
    from aquila.cli.tokenizer import open_tokenizer
    from aquila.data.conversations import Conversation, conversation_files, read_conversations
    from aquila.data.sft import choose_template, render
    from aquila.errors import DataError

    chosen = open_tokenizer(tokenizer)
    writer = choose_template(template, chosen)
    console = Console(highlight=False, soft_wrap=True)
    seen = 0
    for record in (each for path in conversation_files(files) for each in read_conversations(path)):
        if not isinstance(record, Conversation):
            continue
        seen += 1
        if seen <= skip:
            continue
        messages = record.messages[:-1] if record.messages[-1].role == "user" else record.messages
        piece = render(writer, chosen, messages)
        if as_json:
            print(json.dumps(_piece_record(piece, record.where), ensure_ascii=False))
        else:
            assert piece.learned is not None
            console.print(
                f"{record.where} ({record.form}, template {writer.name}): {len(piece.token_ids)} tokens, "
                f"{int(piece.learned.sum())} learned",
                style="bold",
            )
            console.print(_marked(console, chosen, piece.token_ids, piece.learned), end="\n\n")
        if seen == skip + count:
            return
    if seen <= skip:
        names = ", ".join(map(str, files))
        raise DataError(f"{names}: {seen} usable conversations; `aquila data validate` names what is wrong")


def print_validation(paths: Sequence[Path], *, as_json: bool) -> bool:
    """Checks files of conversations and shards; whether all is well."""
    results = [_validate_shard(path) if _is_shard(path) else None for path in paths]
    conversations = [path for path, result in zip(paths, results, strict=True) if result is None]
    records = [result for result in results if result is not None]
    if conversations:
        from aquila.data.conversations import conversation_files

        records += [_validate_conversations(path) for path in conversation_files(conversations)]
    if as_json:
        print(json.dumps({"files": records}, ensure_ascii=False))
    else:
        for record in records:
            for problem in record["problems"]:
                print(problem)
            print(record["summary"])
    return not any(record["problems"] for record in records)


def _recipe_for_one(path: Path, overrides: Sequence[str]) -> "Recipe":
    """The recipe, or that of a run, for one process: how it is spread makes no difference to its data."""
    from aquila.errors import ConfigError
    from aquila.train.recipe import ParallelConfig, load_recipe

    file = path / "recipe.yaml" if path.is_dir() else path
    recipe = load_recipe([file], overrides)
    if recipe.train.global_batch_size is None and path.is_file():
        devices = recipe.parallel.dp_shard
        if devices == "auto":
            raise ConfigError(
                f"{path}: the batch depends on the number of devices here; add train.global_batch_size=N to say it"
            )
        micro, steps = recipe.train.micro_batch_size, recipe.train.gradient_accumulation_steps or 1
        assert micro != "auto"  # the recipe checked it
        size = micro * steps * devices * recipe.parallel.dp_replicate
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"global_batch_size": size})})
    train = recipe.train.model_copy(update={"micro_batch_size": "auto", "gradient_accumulation_steps": None})
    return recipe.model_copy(update={"parallel": ParallelConfig(), "train": train})


def _print_shares(console: Console, loader: "Loader", steps: int) -> None:
    report = loader.report(steps)
    console.print(
        f"\n{'source':24} {'tokens':>15} {'sequences':>12} {'wanted':>8} {'read':>8} {'epochs':>8}", style="bold"
    )
    for row in report["sources"]:
        console.print(
            f"{row['name']:24} {row['num_tokens']:>15,} {row['num_sequences']:>12,} {row['share_wanted']:>8.2%} "
            f"{row['share']:>8.2%} {row['epochs']:>8.2f}"
        )
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow")


def _document_text(console: Console, tokenizer: "Tokenizer", ids: np.ndarray, labels: np.ndarray) -> Text:
    """A document of a row: its input tokens and the last label; what is predicted somewhere is learned."""
    from aquila.data.batch import IGNORE

    shown = np.append(ids, labels[-1]) if labels[-1] != IGNORE else ids
    learned = np.append([False], labels != IGNORE)[: len(shown)]
    return _marked(console, tokenizer, shown, learned)


def _marked(console: Console, tokenizer: "Tokenizer", token_ids: np.ndarray, learned: np.ndarray) -> Text:
    text = Text()
    for mask, group in groupby(zip(token_ids.tolist(), learned.tolist(), strict=True), key=lambda pair: pair[1]):
        part = tokenizer.decode([token_id for token_id, _ in group], skip_special=False).translate(_PICTURES)
        if not console.is_terminal and mask:
            part = f"⟦{part}⟧"
        text.append(part, style="green" if mask else "dim")
    return text


def _piece_record(piece: "Piece", where: str) -> dict[str, Any]:
    assert piece.learned is not None
    return {"where": where, "token_ids": piece.token_ids.tolist(), "learned": piece.learned.astype(int).tolist()}


def _is_shard(path: Path) -> bool:
    from aquila.data.shards import bin_path, idx_path, shard_prefix

    prefix = shard_prefix(path)
    there = idx_path(prefix).exists() or bin_path(prefix).exists()
    return path.suffix in (".bin", ".idx") or (there and not path.exists())


def _validate_shard(path: Path) -> dict[str, Any]:
    from aquila.data.shards import Shard, bin_path
    from aquila.errors import DataError
    from aquila.files import sha256_file

    problems = []
    summary = f"{path}: cannot be read"
    try:
        shard = Shard(path)
        summary = f"{shard.prefix}: {shard.num_documents:,} documents, {shard.num_tokens:,} tokens of {shard.dtype}"
        if shard.sidecar is None:
            summary += "; no note of its tokenizer"
        else:
            summary += f"; tokenizer {shard.sidecar.tokenizer[:12]}"
            file = bin_path(shard.prefix)
            if sha256_file(file) != shard.sidecar.sha256:
                problems.append(f"{file}: its bytes are not those that were packed; pack again")
    except DataError as error:
        problems.append(str(error))
    return {"path": str(path), "problems": problems, "summary": summary}


def _validate_conversations(path: Path) -> dict[str, Any]:
    from aquila.data.conversations import Problem, read_conversations

    problems, forms = [], {}
    for record in read_conversations(path):
        if isinstance(record, Problem):
            problems.append(str(record))
        else:
            forms[record.form] = forms.get(record.form, 0) + 1
    kinds = ", ".join(f"{count:,} {form}" for form, count in forms.items()) or "none"
    summary = f"{path}: {sum(forms.values()):,} conversations ({kinds}), {len(problems):,} invalid"
    return {"path": str(path), "problems": problems, "summary": summary, "forms": forms}
