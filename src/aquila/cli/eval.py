"""`aquila eval`: how good a model is."""

import typer

from aquila.cli import (
    eval_choice,
    eval_code,
    eval_contamination,
    eval_fim,
    eval_gsm8k,
    eval_judge,
    eval_lm,
    eval_ppl,
    eval_report,
)

app = typer.Typer(help="Measure how good a model is.", no_args_is_help=True)
app.command()(eval_code.humaneval)
app.command("humaneval-x")(eval_code.humaneval_x)
app.command()(eval_code.translation)
app.command()(eval_code.export)
app.command()(eval_judge.judge)
app.command()(eval_judge.selftest)
app.command()(eval_judge.add)
app.command()(eval_report.report)
app.command()(eval_report.compare)
app.command()(eval_contamination.contamination)
app.command()(eval_choice.choice)
app.command()(eval_lm.lm)
app.command()(eval_fim.fim)
app.command()(eval_gsm8k.gsm8k)
app.command()(eval_ppl.ppl)
