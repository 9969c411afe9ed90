#!/usr/bin/env bash
# What an adapter of smollm2-135m learns from a source tree: bits per byte on files it never saw, before and after.
#   runs/lora_assistant.sh [TREE] [key.sub=value ...]     this project's own source by default; goes to runs/out/lora
set -euo pipefail
cd "$(dirname "$0")/.."
aquila=${AQUILA:-.venv/bin/aquila} python=${PYTHON:-.venv/bin/python}
tree=src out=runs/out/lora
if [ $# -gt 0 ] && [ -d "$1" ]; then tree=$1; shift; fi
mkdir -p "$out"

# Every tenth file is held out, whole. A copy of a held-out file in the training part would be no test.
"$python" - "$tree" "$out" <<'PY'
import hashlib, json, pathlib, sys

tree, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
kinds = {".py", ".c", ".cc", ".cpp", ".h", ".hpp", ".java", ".js", ".ts", ".go", ".rs", ".rb", ".sh", ".sql"}
hidden = {"node_modules", "__pycache__", "site-packages"}
parts, seen = {"train": [], "held_out": []}, set()
for path in sorted(each for each in tree.rglob("*") if each.suffix in kinds and each.is_file()):
    inside = path.relative_to(tree).parts
    if hidden & set(inside) or any(part.startswith(".") for part in inside):
        continue
    text = path.read_text(encoding="utf-8", errors="ignore")
    digest = hashlib.sha256(text.encode()).digest()
    if text.strip() and digest not in seen:
        parts["held_out" if len(seen) % 10 == 5 else "train"].append(text)
        seen.add(digest)
if not parts["held_out"]:
    sys.exit(f"error: {tree}: {len(seen)} source files are too few to hold one out of ten; name a larger tree")
for name, texts in parts.items():
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
(out / "held_out.txt").write_text("\n".join(parts["held_out"]), encoding="utf-8")
print(f"{tree}: {len(parts['train'])} files to train on, {len(parts['held_out'])} held out")
PY
for part in train held_out; do
  "$aquila" data pack "$out/$part.jsonl" --tokenizer smollm2-135m --out "$out/$part"
done

measure() { # bits per byte of the first 10,000 held-out tokens under a model, in one precision for both
  "$aquila" eval ppl "$out/held_out.txt" --model "$1" --dtype fp32 --window 512 --max-tokens 10000 --json |
    "$python" -c 'import json, sys; print(json.loads(sys.stdin.readline())["bits_per_byte"])'
}
rm -rf "$out/run" "$out/merged"
before=$(measure smollm2-135m)
"$aquila" train recipes/lora/smollm2.yaml "$@"
"$aquila" lora info "$out/run/adapter" --model smollm2-135m
"$aquila" lora merge smollm2-135m "$out/run/adapter" "$out/merged" --dtype fp32
after=$(measure "$out/merged")
"$python" -c 'import sys; b, a = map(float, sys.argv[1:]); print(f"held out: {b:.4f} bits per byte before, {a:.4f} after: {1 - a / b:.1%} less")' "$before" "$after"
echo "with it: $aquila generate --adapter $out/run/adapter 'def read_'"
