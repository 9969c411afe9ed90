"""Small files in the forms that benchmarks of multiple choice are published in."""

import csv
import json
from pathlib import Path

NETWORKS = [  # question, four choices, answer
    ("传输层的可靠协议是____。", "UDP", "TCP", "IP", "ARP", "B"),
    (" HTTP默认的端口号是多少？\n", "80", "21", "443", "25", "A"),
    ("IPv4地址有多少位？", "16", "64", "32", "128", "C"),
    ("“域名，解析”用哪个协议？", "FTP", "SMTP", "ARP", "DNS", "D"),
]
LAW = [
    ("我国的根本大法是____。", "宪法", "刑法", "民法典", "行政法", "A"),
    ("成年的年龄是多少周岁？", "十四", "十六", "十八", "二十", "C"),
]
BOOLQ = [
    ("Water boils at 100 degrees Celsius.", "does water boil at 100 degrees celsius", True),
    ("The sun is a star.", "is the sun a planet", False),
    ("Python is a language.", "is python a language", True),
    ("Two is even.", "is two an odd number", False),
]


def write_csv(path: Path, header: list[str] | None, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def ceval_folder(root: Path) -> Path:
    """As C-Eval's archive unpacks, with two of its subjects."""
    header = ["id", "question", "A", "B", "C", "D", "answer"]
    for subject, rows in (("computer_network", NETWORKS), ("law", LAW)):
        numbered = [[number, *row] for number, row in enumerate(rows)]
        write_csv(root / "val" / f"{subject}_val.csv", header, numbered)
        write_csv(
            root / "dev" / f"{subject}_dev.csv", [*header, "explanation"], [[*row, "略"] for row in numbered[::-1]]
        )
        write_csv(root / "test" / f"{subject}_test.csv", header[:-1], [row[:-1] for row in numbered])
    return root


def boolq_rows(rows: list = BOOLQ) -> list[dict]:
    return [{"question": question, "title": "T", "answer": answer, "passage": text} for text, question, answer in rows]
