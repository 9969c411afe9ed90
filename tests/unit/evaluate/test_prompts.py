"""How a task is put to a model: every byte of it decides the score."""

import pytest

from aquila.errors import ConfigError
from aquila.evaluate.presets import find_preset, presets
from aquila.evaluate.prompts import (
    STYLES,
    check_style,
    messages,
    prompt_bytes,
    prompt_text,
    prompts_of,
    read_answer,
    stops,
)
from aquila.evaluate.sampling import Settings, sample_seed
from aquila.evaluate.tasks import Task
from aquila.evaluate.url_source import MAX_STOPS

PYTHON = Task("T/0", "python", 'def f(x):\n    """Doc."""\n', "    return x\n", "", "f")
CPP = Task("T/0", "cpp", "int f(int x){\n", "    return x;\n}\n", "", "f")


@pytest.mark.parametrize(
    ("task", "style", "text"),
    [
        (PYTHON, "bare", 'def f(x):\n    """Doc."""'),
        (PYTHON, "comment", '#补全代码\ndef f(x):\n    """Doc."""'),
        (PYTHON, "tag", '# language: Python\ndef f(x):\n    """Doc."""'),
        (CPP, "bare", "int f(int x){"),
        (CPP, "comment", "//补全代码\nint f(int x){"),
        (CPP, "tag", "// language: C++\nint f(int x){"),
    ],
)
def test_a_base_model_goes_on_from_the_prompt_without_its_last_line_break(task, style, text):
    assert prompt_text(task, style) == text


def test_a_chat_model_is_asked_in_either_language():
    (english,), (chinese,) = messages(PYTHON, "chat"), messages(PYTHON, "chat-zh")
    assert english.content.endswith('```python\ndef f(x):\n    """Doc."""\n```')
    assert "补全下面的 Python 函数" in chinese.content
    assert read_answer("```python\ndef f(x):\n    return x\n```", PYTHON, "chat").text.strip().startswith("def f(x)")


def test_each_sample_has_its_own_seed_and_ends_by_itself():
    asked = prompts_of(PYTHON, "bare", Settings(n=3, temperature=0.5, seed=7), [0, 2])
    assert [prompt.key for prompt in asked] == [("T/0", 0), ("T/0", 2)]
    assert [prompt.seed for prompt in asked] == [sample_seed(7, "T/0", 0), sample_seed(7, "T/0", 2)]
    assert prompt_bytes(asked[0]) == b'def f(x):\n    """Doc."""'
    assert asked[0].is_complete is not None
    assert asked[0].is_complete("\n    return x\n\ndef")
    assert not asked[0].is_complete("\n    return x\n\n    d")


def test_no_server_is_told_more_stops_than_it_takes_nor_to_stop_at_definitions():
    for language in ("python", "cpp", "java", "js", "go", "rust"):
        assert len(stops("bare", language)) <= MAX_STOPS
        assert not any("def " in stop for stop in stops("bare", language))
    assert stops("chat", "python") == ()


def test_presets_are_data():
    assert (find_preset("codex").n, find_preset("codex").temperatures) == (200, (0.2, 0.8))
    assert (find_preset("greedy").n, find_preset("greedy").temperatures) == (1, (0.0,))
    assert find_preset("aquila-zh").prompt_style == "comment"
    for preset in presets().values():
        assert max(preset.k) <= preset.n
        assert preset.prompt_style in STYLES
        for temperature in preset.temperatures:
            Settings(n=preset.n, temperature=temperature, top_p=preset.top_p, max_new_tokens=preset.max_new_tokens)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="--preset 'greed' is unknown; did you mean 'greedy'"):
        find_preset("greed")
    with pytest.raises(ConfigError, match="--prompt-style 'chart' is unknown; did you mean 'chat'"):
        check_style("chart")
