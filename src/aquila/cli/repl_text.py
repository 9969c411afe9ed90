"""What `aquila chat` itself says, in English and Chinese. `text(language, key, ...)` fills the braces."""

LANGUAGES = ("en", "zh")
TEXTS: dict[str, dict[str, str]] = {
    "welcome": {
        "en": "{model} ({template}). Enter sends, Alt-Enter breaks the line, /help lists commands.",
        "zh": "{model}（{template}）。Enter 发送，Alt-Enter 换行，/help 查看命令。",
    },
    "stopped": {"en": "(stopped)", "zh": "（已停止）"},
    "cut": {
        "en": "(cut at max_new_tokens or the context's end; /set max_new_tokens N)",
        "zh": "（已达到 max_new_tokens 或上下文上限；/set max_new_tokens N 可调整）",
    },
    "hint_leave": {
        "en": "Ctrl-D or /quit leaves; Ctrl-C stops an answer.",
        "zh": "Ctrl-D 或 /quit 退出；Ctrl-C 停止回答。",
    },
    "unknown_command": {
        "en": "/{name} is not a command{suggestion}. A message may begin with / after a space.",
        "zh": "没有命令 /{name}{suggestion}。以 / 开头的消息请先输入一个空格。",
    },
    "did_you_mean": {"en": "; did you mean /{name}?", "zh": "，是否想输入 /{name}？"},
    "system_set": {"en": "system message set", "zh": "已设置系统消息"},
    "system_now": {
        "en": "system message: {system}  (/system TEXT replaces it, /system - removes it)",
        "zh": "系统消息：{system}（/system 文本 替换，/system - 删除）",
    },
    "none": {"en": "none", "zh": "无"},
    "set_done": {"en": "{key} = {value}", "zh": "{key} = {value}"},
    "set_usage": {"en": "usage: /set KEY VALUE", "zh": "用法：/set 参数 值"},
    "set_unknown": {"en": "{key!r} cannot be set{suggestion}", "zh": "没有参数 {key!r}{suggestion}"},
    "set_not_a_number": {
        "en": "{key}: {value!r} is not {kind}",
        "zh": "{key}：{value!r} 不是{kind}",
    },
    "kind_int": {"en": "a whole number", "zh": "整数"},
    "kind_float": {"en": "a number", "zh": "数字"},
    "reset": {"en": "the conversation starts anew", "zh": "对话已清空"},
    "undone": {"en": "taken back: {message}", "zh": "已撤回：{message}"},
    "path_usage": {"en": "usage: /{name} FILE", "zh": "用法：/{name} 文件"},
    "saved": {"en": "saved to {path}", "zh": "已保存到 {path}"},
    "loaded": {"en": "{num_rounds} rounds from {path}", "zh": "已从 {path} 读入 {num_rounds} 轮对话"},
    "stats": {
        "en": "prompt {prompt_tokens} tokens, answer {new_tokens} tokens at {speed:.1f} tokens/s, "
        "first after {first:.2f} s; rounds {num_rounds}; context {used} of {limit}",
        "zh": "提示 {prompt_tokens} 个 token，回答 {new_tokens} 个 token，{speed:.1f} token/秒，"
        "首个 token {first:.2f} 秒；共 {num_rounds} 轮；上下文 {used}/{limit}",
    },
    "no_stats": {"en": "no answer yet", "zh": "还没有回答"},
    "language_set": {"en": "language: English", "zh": "语言：中文"},
    "language_usage": {"en": "usage: /lang zh|en", "zh": "用法：/lang zh|en"},
    "toolbar": {
        "en": " {model} | {speed}context {used}/{limit} ",
        "zh": " {model} | {speed}上下文 {used}/{limit} ",
    },
    "speed": {"en": "{value:.1f} tokens/s | ", "zh": "{value:.1f} token/秒 | "},
    "help_help": {"en": "this list", "zh": "显示本列表"},
    "help_system": {
        "en": "show, set or remove (-) the system message",
        "zh": "查看、设置或删除（-）系统消息",
    },
    "help_set": {
        "en": "show or set sampling, e.g. /set temperature 0.3",
        "zh": "查看或设置采样参数，如 /set temperature 0.3",
    },
    "help_reset": {"en": "forget the conversation", "zh": "清空对话"},
    "help_undo": {"en": "take back the last round", "zh": "撤回上一轮"},
    "help_retry": {"en": "answer the last message anew", "zh": "重新回答上一条消息"},
    "help_save": {"en": "write the conversation to a file", "zh": "把对话存为文件"},
    "help_load": {"en": "continue a saved conversation", "zh": "读入保存的对话"},
    "no_tools": {
        "en": "no tools; start with `aquila chat --tools calculator,text2image`",
        "zh": "没有启用工具；请用 `aquila chat --tools calculator,text2image` 启动",
    },
    "tool": {"en": "{name}: {about}{permissions}", "zh": "{name}：{about}{permissions}"},
    "image_added": {
        "en": "{path} is {id}; tools that take a picture use the newest one",
        "zh": "{path} 的编号是 {id}；需要图片的工具使用最新的一张",
    },
    "help_tools": {"en": "tools that the model can call", "zh": "模型可以调用的工具"},
    "help_image": {"en": "give tools a picture", "zh": "为工具提供一张图片"},
    "help_stats": {"en": "tokens, speed, context", "zh": "token 数、速度、上下文"},
    "help_lang": {"en": "language of these messages: zh or en", "zh": "界面语言：zh 或 en"},
    "help_quit": {"en": "leave", "zh": "退出"},
}


def text(language: str, key: str, /, **values: object) -> str:
    return TEXTS[key][language].format(**values)
