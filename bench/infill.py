"""What the text after the cursor is worth: lines of files that a model has not seen, with it and without it.

    python bench/infill.py MODEL FOLDER [--quick] [--lines N]

Each middle is one line of a file in FOLDER. `bits per byte` is its cost to the model (less is better), `exact` is
the share of lines that it writes to the letter at temperature 0. The same model gets the same text before the cursor:
with the text after it; with nothing after it in the same form; and left to right, without any form.
"""

import argparse
import json
import math
import platform
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import aquila
from aquila.generate.infill import infill_prompt, infill_request
from aquila.generate.load import Model
from aquila.generate.middle import clean_middle
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams

LINES_AROUND = 8  # before and after, and characters in all: as much as a tiny model was trained to look at
MAX_CHARACTERS = 750
MIN_CHARACTERS = 8  # a bracket alone is no test
FORMS = ("with suffix", "without suffix", "left to right")


@dataclass(frozen=True)
class Sample:
    prefix: str
    middle: str
    suffix: str


def samples(folder: Path, count: int) -> list[Sample]:
    """Lines of the files in the folder, the same for the same files."""
    found = []
    for path in sorted(folder.glob("*.py")):
        lines = path.read_text(encoding="utf-8").split("\n")
        for place in range(1, len(lines)):
            middle = lines[place]
            before = "".join(line + "\n" for line in lines[max(0, place - LINES_AROUND) : place])
            after = "".join("\n" + line for line in lines[place + 1 : place + 1 + LINES_AROUND])
            if len(middle.strip()) < MIN_CHARACTERS or not after.strip():
                continue
            if len(before) + len(middle) + len(after) <= MAX_CHARACTERS:
                found.append(Sample(before, middle, after))
    random.Random(0).shuffle(found)
    if not found:
        raise SystemExit(f"{folder}: no Python files with lines to leave out")
    return found[:count]


def prompts(model: Model, sample: Sample) -> dict[str, Sequence[int]]:
    """The prompt of each form."""
    return {
        "with suffix": infill_prompt(model, sample.prefix, sample.suffix).token_ids,
        "without suffix": infill_prompt(model, sample.prefix, "").token_ids,
        "left to right": model.prompt_ids(sample.prefix),
    }


def bits_per_byte(model: Model, chosen: list[Sample]) -> dict[str, float]:
    """Cost of the middles' tokens."""
    params = SamplingParams(temperature=0, max_new_tokens=1, prompt_logprobs=0)
    bits = dict.fromkeys(FORMS, 0.0)
    for sample in chosen:
        middle = model.tokenizer.encode(sample.middle)
        for form, prompt in prompts(model, sample).items():
            [[completion]] = model.engine.generate([Request((*prompt, *middle), params)])
            scored = completion.prompt_logprobs or []
            bits[form] -= sum(entry.logprob for entry in scored[-len(middle) :]) / math.log(2)
    num_bytes = sum(len(sample.middle.encode()) for sample in chosen)
    return {form: value / num_bytes for form, value in bits.items()}


def exact(model: Model, chosen: list[Sample]) -> dict[str, float]:
    """Share of middles that come out to the letter."""
    params = SamplingParams(temperature=0, max_new_tokens=48)
    shares = {}
    for form in FORMS:
        requests = []
        for sample in chosen:
            suffix = sample.suffix if form == "with suffix" else ""
            if form == "left to right":
                requests.append(Request(tuple(model.prompt_ids(sample.prefix)), params))
            else:
                requests.append(infill_request(model, sample.prefix, suffix, params))
        hits = 0
        for sample, (completion,) in zip(chosen, model.engine.generate(requests), strict=True):
            suffix = sample.suffix if form == "with suffix" else ""
            ended = completion.finish_reason == "stop"
            hits += clean_middle(completion.text, suffix, ended=ended, single_line=True) == sample.middle
        shares[form] = hits / len(chosen)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="60 lines")
    options = parser.parse_args()
    model = aquila.load(options.model)
    chosen = samples(options.folder, 60 if options.quick else options.lines)
    costs, shares = bits_per_byte(model, chosen), exact(model, chosen)
    print(f"{'':16} {'bits per byte':>14} {'exact':>8}")
    for form in FORMS:
        print(f"{form:16} {costs[form]:14.3f} {shares[form]:8.1%}")
    ratio = costs["without suffix"] / costs["with suffix"]
    print(
        json.dumps(
            {
                "name": "infill",
                "aquila": aquila.__version__,
                "python": platform.python_version(),
                "lines": len(chosen),
                "bits_per_byte": costs,
                "exact": shares,
                "ratios": {"bits_without_suffix_to_with": ratio},
            }
        )
    )


if __name__ == "__main__":
    main()
