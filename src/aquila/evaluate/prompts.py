"""How a task is put to a model, and how its answer is read.

bare      the prompt without its last line break: `:` and what follows it are one token in many vocabularies, and a
          prompt that ends behind that line break asks for what the model has never seen ("One Byte, One Rank
          Reversal", 2026: StarCoder2-3B solves 29.9 % of HumanEval without it and 1.8 % with it)
comment   `#补全代码` above it (`//补全代码` in C-like languages), as AquilaCode was shown
tag       `# language: Python` above it, as CodeGeeX has it
chat      a request for the whole function in a fence; chat-zh asks in Chinese
"""

from collections.abc import Callable, Sequence

from aquila.config import suggest
from aquila.errors import ConfigError
from aquila.evaluate import chat_answer, truncation
from aquila.evaluate.sampling import Prompt, Settings, sample_seed
from aquila.evaluate.tasks import Task
from aquila.evaluate.truncation import Cut
from aquila.tokenizer.messages import Message

STYLES = ("bare", "comment", "tag", "chat", "chat-zh")
LANGUAGE_NAMES = {"python": "Python", "cpp": "C++", "java": "Java", "js": "JavaScript", "go": "Go", "rust": "Rust"}
# Text that never belongs to the answer, for servers, which cannot be told more. Not `\ndef `: a model may begin by
# writing the signature again. Four at most, since OpenAI takes no more.
_STOPS = {
    "python": ("\nclass ", "\nif __name__", "\nprint(", "\n```"),
    "cpp": ("\nint main(", "\n```"),
    "java": ("\n```",),
    "js": ("\nconsole.log(", "\nmodule.exports", "\n```"),
    "go": ("\nfunc main(", "\n```"),
    "rust": ("\nfn main(", "\n```"),
}
_REQUESTS = {
    "chat": "Complete the following {name} function as its documentation asks. Write the whole function in one "
    "Markdown code block, without tests or examples.\n\n```{language}\n{prompt}\n```",
    "chat-zh": "请按照注释的要求补全下面的 {name} 函数，写出完整的函数，代码要用一个 Markdown 代码块包裹，不要写测试。"
    "\n\n```{language}\n{prompt}\n```",
}


def check_style(style: str) -> None:
    """`ConfigError` where there is no such style."""
    if style not in STYLES:
        raise ConfigError(f"--prompt-style {style!r} is unknown{suggest(style, STYLES)}; there are {', '.join(STYLES)}")


def stops(style: str, language: str) -> tuple[str, ...]:
    """Texts that end an answer."""
    return () if style.startswith("chat") else _STOPS[language]


def prompt_text(task: Task, style: str) -> str:
    """What a base model goes on from."""
    mark = "#" if task.language == "python" else "//"
    head = {"bare": "", "comment": f"{mark}补全代码\n", "tag": f"{mark} language: {LANGUAGE_NAMES[task.language]}\n"}[
        style
    ]
    return head + task.prompt.removesuffix("\n").removesuffix("\r")


def messages(task: Task, style: str) -> tuple[Message, ...]:
    """What a chat model is asked."""
    text = _REQUESTS[style].format(
        name=LANGUAGE_NAMES[task.language], language=task.language, prompt=task.prompt.rstrip("\n")
    )
    return (Message("user", text),)


def prompts_of(task: Task, style: str, settings: Settings, wanted: Sequence[int]) -> list[Prompt]:
    """A prompt for each of the samples `wanted` of a task."""
    chat = style.startswith("chat")
    text = None if chat else prompt_text(task, style)
    asked = messages(task, style) if chat else None
    end: Callable[[str], bool] | None = None if chat else lambda text: truncation.is_complete(text, task)
    return [
        Prompt((task.task_id, i), text, asked, sample_seed(settings.seed, task.task_id, i), is_complete=end)
        for i in wanted
    ]


def prompt_bytes(prompt: Prompt) -> bytes:
    """What its digest is of: the text, or the messages one after the other."""
    if prompt.text is not None:
        return prompt.text.encode()
    return "\0".join(f"{each.role}\0{each.content}" for each in prompt.messages or ()).encode()


def read_answer(text: str, task: Task, style: str) -> Cut:
    """What of an answer is judged."""
    return chat_answer.extract(text, task) if style.startswith("chat") else truncation.truncate(text, task)
