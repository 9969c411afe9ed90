#!/usr/bin/env bash
# The whole story on a CPU in under five minutes: vocabulary, corpus, pre-training, fine-tuning, text.
# Corpus: the sources and documentation of Python's own standard library, and the sample in src/aquila/data/sample.
#   runs/tiny.sh            in the root of a checkout; everything goes to runs/out/tiny
set -euo pipefail
cd "$(dirname "$0")/.."
aquila=${AQUILA:-.venv/bin/aquila} python=${PYTHON:-.venv/bin/python}
out=runs/out/tiny sample=src/aquila/data/sample
mkdir -p "$out/text"

# Modules become the code part, their documentation strings the English part.
"$python" - "$out/text" <<'PY'
import ast, json, pathlib, sys, sysconfig

out, library = pathlib.Path(sys.argv[1]), pathlib.Path(sysconfig.get_paths()["stdlib"])
files = [path for path in sorted(library.glob("*.py")) if path.stat().st_size < 60_000]
with (out / "code.jsonl").open("w", encoding="utf-8") as code, (out / "en.jsonl").open("w", encoding="utf-8") as en:
    for path in files:
        text = path.read_text(encoding="utf-8")
        code.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        documents = [ast.get_docstring(node) or "" for node in nodes]
        english = "\n\n".join(document for document in documents if len(document) > 80)
        if english:
            en.write(json.dumps({"text": english}, ensure_ascii=False) + "\n")
PY

"$aquila" tokenizer train "$sample"/{zh,en,code}.jsonl "$out"/text/{en,code}.jsonl --vocab-size 4096 --out "$out/tokenizer"
for part in zh en code; do
  text=("$sample/$part.jsonl")
  [ "$part" = zh ] || text+=("$out/text/$part.jsonl")
  "$aquila" data pack "${text[@]}" --tokenizer "$out/tokenizer" --out "$out/$part"
done
"$aquila" train recipes/pretrain/tiny.yaml "$@"
"$aquila" train recipes/sft/tiny.yaml
"$aquila" generate --model "$out/pretrain/model" --temperature 0.5 --seed 1 --max-new-tokens 80 'def binary_search(items, target):'
"$aquila" generate --model "$out/pretrain/model" --temperature 0.5 --seed 1 --max-new-tokens 40 '编译器是'
echo '写一个 Python 函数，返回两个数的和。' | "$aquila" chat --model "$out/sft/model" --temperature 0 --max-new-tokens 60
echo "loss: $out/pretrain/loss.png and $out/sft/loss.png; talk to it: $aquila chat --model $out/sft/model"
