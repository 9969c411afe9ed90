"""The loss of a run as a picture: raw and smoothed training loss, evaluations, learning rate and gradient norm."""

from pathlib import Path
from typing import Any

from aquila.errors import ConfigError
from aquila.files import atomic_write
from aquila.train.metrics import EVALUATIONS, METRICS, read_lines

PLOT = "loss.png"


def plot_run(run_dir: Path, out: Path | None = None) -> Path:
    """Draws `metrics.jsonl` and `evaluations.jsonl` of a run into a PNG and returns its path.

    Raises:
        ConfigError: matplotlib is not installed, or there is nothing to draw.
    """
    steps = [record for record in read_lines(run_dir / METRICS) if record.get("loss") is not None]
    if not steps:
        raise ConfigError(f"{run_dir}: no steps in {METRICS} to draw; give the folder of a run")
    try:
        import matplotlib  # noqa: PLC0415  optional
    except ImportError:
        raise ConfigError("drawing needs matplotlib; run `pip install matplotlib`") from None
    matplotlib.use("agg")  # a file, never a window
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _draw_loss(loss, steps, read_lines(run_dir / EVALUATIONS))
    loss.set_title(run_dir.resolve().name)
    tokens = [record["num_tokens"] for record in steps]
    rate.plot(tokens, [record["lr"] for record in steps], color="tab:green")
    rate.set_ylabel("learning rate", color="tab:green")
    rate.set_ylim(bottom=0)
    rate.set_xlabel("tokens")
    rate.xaxis.set_major_formatter(EngFormatter(sep=""))  # 400k
    norms = rate.twinx()
    norms.plot(tokens, [record["grad_norm"] for record in steps], color="tab:gray", linewidth=0.7, alpha=0.7)
    norms.set_ylabel("gradient norm", color="tab:gray")
    norms.set_yscale("log")
    norms.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    norms.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    norms.yaxis.set_minor_formatter(NullFormatter())
    target = out or run_dir / PLOT
    with atomic_write(target) as temporary:
        figure.savefig(temporary, format="png")
    return target


def _draw_loss(axes: Any, steps: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
    tokens, losses = [record["num_tokens"] for record in steps], [record["loss"] for record in steps]
    axes.plot(tokens, losses, color="tab:blue", linewidth=0.6, alpha=0.35)
    axes.plot(tokens, _smoothed(losses), color="tab:blue", label="training")
    skipped = [record for record in steps if record.get("skipped")]
    if skipped:
        places = [record["num_tokens"] for record in skipped], [record["loss"] for record in skipped]
        axes.scatter(*places, color="tab:red", marker="x", label="skipped")
    for number, name in enumerate(dict.fromkeys(record["name"] for record in evaluations)):
        points = [(record["num_tokens"], record["loss"]) for record in evaluations if record["name"] == name]
        last = next(record for record in reversed(evaluations) if record["name"] == name)
        label = f"{name} ({last['bits_per_byte']:.3f} bits per byte)" if last["bits_per_byte"] else name
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=f"C{number + 1}", label=label)
    axes.set_ylabel("loss, nats per token")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _smoothed(values: list[float]) -> list[float]:
    """Exponential moving average over about a fortieth of the run, at most 200 points.

    Corrected for its start: Kingma and Ba 2015, arXiv:1412.6980, section 3.
    """
    share = min(0.5, max(0.005, 40 / len(values)))
    out, average, weight = [], 0.0, 0.0
    for value in values:
        average += share * (value - average)
        weight += share * (1 - weight)
        out.append(average / weight)
    return out
