"""`aquila eval gsm8k`: arithmetic in words."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aquila.cli.eval_code import (
    ConcurrentOption,
    KeyOption,
    MemoryOption,
    SeedOption,
    UrlModelOption,
    UrlOption,
    open_source,
)
from aquila.cli.eval_model import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OutOption,
    QuantizeOption,
    default_out,
    progress_bar,
)
from aquila.cli.main import INTERRUPTED


def gsm8k(
    data: Annotated[Path, typer.Option(help="GSM8K's test.jsonl.")],
    model: ModelOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    url_model: UrlModelOption = None,
    concurrent: ConcurrentOption = 8,
    shots: Annotated[int, typer.Option(min=0, help="Solved examples before each problem.")] = 5,
    examples: Annotated[
        Path | None, typer.Option(help="Where they are drawn from; train.jsonl beside --data, if it is there.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Answers to each problem.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw among tokens that make up this probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    out: OutOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    memory_limit: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """GSM8K in lm-eval's template: the share of right answers, read strictly (`#### 42`) and flexibly."""
    from aquila.evaluate.gsm8k import STOPS, counts, draw, read_gsm8k
    from aquila.evaluate.pass_at_k import estimate
    from aquila.evaluate.report import write_report
    from aquila.evaluate.run_folder import RunFolder
    from aquila.evaluate.sampling import Settings

    benchmark = read_gsm8k(data, num_shots=shots, examples=examples, limit=limit)
    settings = Settings(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, stop=STOPS, seed=seed)
    with open_source(locals()) as source:
        target = out or default_out("gsm8k", source.name, f"{shots}shots", f"limit{limit}" if limit else "")
        facts: dict[str, Any] = {
            "bench": "gsm8k",
            "language": "en",
            "model": source.facts(),
            "prompt_style": f"lm-eval, {shots} examples",
            "num_shots": shots,
            "preset": None,
            "sampling": settings.to_json(),
            "data": {"file": data.name, "sha256": benchmark.sha256},
            "num_tasks": len(benchmark.problems),
        }
        with RunFolder(target, facts) as folder:
            try:
                with progress_bar(len(benchmark.problems) * n - len(folder.verdicts), "gsm8k", "right") as step:
                    draw(benchmark, source, settings, folder, step)
            except KeyboardInterrupt:
                print(f"interrupted: the same command goes on with what is in {target}", file=sys.stderr)
                sys.exit(INTERRUPTED)
            found = {name: estimate(each, 1) for name, each in counts(folder).items()}
    write_report([target], target, ks=(1,))
    figures = {name: {"value": each.value, "low": each.low, "high": each.high} for name, each in found.items() if each}
    if as_json:
        print(json.dumps({"dir": str(target), "num_problems": len(benchmark.problems), "accuracy": figures}))
        return
    for name, each in figures.items():
        low, high = each["low"], each["high"]
        print(f"gsm8k, {shots} examples, {name}: {each['value']:.1%} (95 % interval {low:.1%} to {high:.1%})")
    print(f"report: {target / 'report.html'}")
