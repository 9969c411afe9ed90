"""`aquila eval lm`: the tasks of lm-eval, over our engine."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aquila.cli.eval_model import DeviceOption, DtypeOption, JsonOption, ModelOption, QuantizeOption


def lm(
    tasks: Annotated[str, typer.Option(help="Names of lm-eval tasks, with commas between.")],
    model: ModelOption = None,
    include_path: Annotated[list[Path] | None, typer.Option(help="A folder of task files; may be repeated.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", "--num-fewshot", min=0, help="Instead of the tasks'.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many documents a task.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts as conversations, in the model's template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before each prompt.")] = None,
    gen_kwargs: Annotated[str | None, typer.Option(help="Such as temperature=0.2,max_gen_toks=512.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new file for all that lm-eval reports, samples too.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run tasks of lm-eval on our engine, in this process. Needs `pip install aquila-lm[lm-eval]`."""
    from aquila.errors import AquilaError, ConfigError, EvaluationError
    from aquila.generate.load import load

    try:
        from lm_eval import simple_evaluate  # ty: ignore[import-not-found]  an extra
        from lm_eval.tasks import TaskManager  # ty: ignore[import-not-found]
        from lm_eval.utils import make_table  # ty: ignore[import-not-found]

        from aquila.evaluate.lm_eval_adapter import EngineLM
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not here, and this needs lm-eval: pip install aquila-lm[lm-eval]") from None
    if out is not None and out.exists():
        raise ConfigError(f"--out {out}: exists already; name a new file")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = TaskManager(include_path=[str(path) for path in include_path or []] or None)
    for name in names:
        if not manager.match_tasks([name]):
            raise ConfigError(f"--tasks: lm-eval knows no task {name!r}; give --include-path FOLDER for your own")
    adapter = EngineLM(load(model, device=device, dtype=dtype, quantize=quantize))
    try:
        result = simple_evaluate(
            model=adapter,
            tasks=names,
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat,
            system_instruction=system,
            gen_kwargs=gen_kwargs,
            log_samples=out is not None,
        )
    except AquilaError:
        raise
    except Exception as error:  # whatever lm-eval, and what it reads data with, think of the tasks
        said = str(error).strip().replace("\n", " ")[:500]
        raise EvaluationError(
            f"lm-eval cannot run {tasks}: {type(error).__name__}: {said} (`aquila --debug eval lm` shows where)"
        ) from error
    if out is not None:
        _write(out, result)
    if as_json:
        kept = {key: result[key] for key in ("results", "groups", "n-shot", "versions") if key in result}
        print(json.dumps(kept, ensure_ascii=False, default=str))
        return
    print(make_table(result))
    if result.get("groups"):
        print(make_table(result, "groups"))
    sys.stdout.flush()


def _write(path: Path, result: dict[str, Any]) -> None:
    from aquila.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
