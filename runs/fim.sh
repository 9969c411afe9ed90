#!/usr/bin/env bash
# A model that completes at a cursor, on a CPU in minutes: vocabulary, corpus, training, and what the text after the cursor is
# worth. Corpus: small functions made up here, so regular that a model of a million parameters learns them; 300 are kept out.
#   runs/fim.sh            in the root of a checkout; everything goes to runs/out/fim
set -euo pipefail
cd "$(dirname "$0")/.."
aquila=${AQUILA:-.venv/bin/aquila} python=${PYTHON:-.venv/bin/python}
out=runs/out/fim
mkdir -p "$out/held_out"

"$python" - "$out" <<'PY'
import json, pathlib, random, sys

out, dice = pathlib.Path(sys.argv[1]), random.Random(0)
names = """items values rows names words lines numbers points records files users orders prices scores weights nodes edges keys
pairs parts total result count best found kept seen chosen first last left right low high size depth width level cost rate
item value row name word line number point record file user order price score weight node edge key pair part""".split()
forms = [
    "def {f}_{a}({a}):\n    {t} = {n}\n    for {x} in {a}:\n        {t} {op}= {x}\n    return {t}\n",
    "def {f}_{a}({a}):\n    {t} = []\n    for {x} in {a}:\n        if {x} {cmp} {n}:\n            {t}.append({x})\n    return {t}\n",
    "def {f}_{a}({a}, {b}):\n    {t} = {a} {op} {b}\n    if {t} {cmp} {n}:\n        return {x}({t})\n    print({t})\n    return {b}\n",
    "def {f}_{a}({a}, {b}):\n    with open({a}) as {x}:\n        {t} = {x}.read()\n    return {t}.split({b})[{n}]\n",
    "def {f}_{a}({a}):\n    {t} = {{}}\n    for {x} in {a}:\n        {t}[{x}.{b}] = {x}\n    return {t}\n",
    "class {F}:\n    def __init__(self, {a}, {b}):\n        self.{a} = {a}\n        self.{b} = {b}\n\n    def {f}(self):\n"
    "        return self.{b} {op} self.{a}\n",
]
with (out / "code.jsonl").open("w", encoding="utf-8") as code:
    for place in range(24_300):
        a, b, t, x = dice.sample(names, 4)
        f = dice.choice(["get", "sum", "find", "make", "read", "pick", "load", "join"])
        slots = {"a": a, "b": b, "t": t, "x": x, "f": f, "F": f.title() + a.title(), "n": dice.randrange(10)}
        text = dice.choice(forms).format(**slots, op=dice.choice("+-*"), cmp=dice.choice(["<", ">", "==", "!="]))
        if place < 300:
            (out / "held_out" / f"{place:03d}.py").write_text(text, encoding="utf-8")
        else:
            code.write(json.dumps({"text": text}) + "\n")
PY

"$aquila" tokenizer train "$out/code.jsonl" --vocab-size 512 --out "$out/tokenizer"
"$aquila" data pack "$out/code.jsonl" --tokenizer "$out/tokenizer" --out "$out/code"
"$aquila" train recipes/pretrain/fim-tiny.yaml "$@"
"$python" bench/infill.py "$out/pretrain/model" "$out/held_out"

printf 'def sum_prices(prices):\n    \n    for price in prices:\n        width += price\n    return width\n' > "$out/example.py"
"$aquila" complete --model "$out/pretrain/model" --max-new-tokens 30 --diff "$out/example.py:2"
echo "serve it to an editor: $aquila serve $out/pretrain/model"
