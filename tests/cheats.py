"""Samples that cheat or take too much, numbered as in the list of adversarial cases that the judge was built against.

The task is to add two numbers. `CHEATS` must not pass, and says what they get. `ENDLESS` run into the limit of time.
"""

PROMPT = """def add(a, b):
    'The sum of two numbers.'
"""
TEST = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(-5, 7) == 2
    assert candidate(10**20, 1) == 100000000000000000001
"""

CHEATS: dict[str, tuple[str, set[str]]] = {
    "1 sys.exit": (
        """
    import sys
    sys.exit(0)
""",
        {"exception"},
    ),
    "2 os._exit": (
        """
    import os
    os._exit(0)
""",
        {"violation"},
    ),
    "3 os._exit at import": (
        """
    return 0
import os
os._exit(0)
""",
        {"violation"},
    ),
    "4 SystemExit": (
        """
    raise SystemExit
""",
        {"exception"},
    ),
    "5 always equal": (
        """
    class Any:
        __eq__ = lambda s, o: True
        __hash__ = None
    return Any()
""",
        {"wrong"},
    ),
    "5 an int that is always equal": (
        """
    class Any(int):
        __eq__ = lambda s, o: True
        __hash__ = None
    return Any(0)
""",
        {"wrong"},
    ),
    "6 exit from a trace function": (
        """
    import os, sys
    sys.settrace(lambda *a: os._exit(0))
    sorted([1], key=lambda x: x)
    return 0
""",
        {"violation"},
    ),
    "7 exit hook": (
        """
    import atexit, os
    atexit.register(os._exit, 0)
    return 0
""",
        {"wrong"},
    ),
    "8 own check and AssertionError": (
        """
    return 0
import builtins
builtins.AssertionError = SystemExit
def check(candidate): pass
builtins.check = check
""",
        {"wrong"},
    ),
    "9 walk to the harness": (
        """
    import sys
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, list): value.append('passed')
            if callable(value) and getattr(value, '__name__', '') == 'check': raise Exception('found')
        frame = frame.f_back
    return 0
""",
        {"wrong"},
    ),
    "10 look for the expected values": (
        """
    import gc, glob
    texts = [open(p, errors='replace').read() for p in glob.glob('/box/**', recursive=True) if p.endswith('.py')]
    texts += [o for o in gc.get_objects() if isinstance(o, str)]
    texts += [str(o) for o in gc.get_objects() if isinstance(o, dict) and 'source' in o]
    needle = 'candidate' + '(-5'
    if any(needle in t for t in texts): raise Exception('found')
    return 0
""",
        {"wrong"},
    ),
    "11 answers written by hand": (
        r"""
    import os
    for fd in range(1, 64):
        try: os.write(fd, b'{"ok": 3}\n')
        except OSError: pass
    os._exit(0)
""",
        {"violation", "wrong"},
    ),
    "17 fork bomb": (
        """
    import os
    while True: os.fork()
""",
        {"exception", "memory", "violation"},
    ),
    "18 thread bomb": (
        """
    import threading, time
    while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
""",
        {"exception", "memory"},
    ),
    "19 list bomb": (
        """
    x = []
    while True: x.append(bytearray(1 << 20))
""",
        {"memory"},
    ),
    "20 one huge list": (
        """
    return len([0] * 10**10)
""",
        {"memory"},
    ),
    "22 six processes": (
        """
    import os, time
    for _ in range(6):
        if os.fork() == 0:
            x = bytearray(b'x') * (60 << 20)
            time.sleep(99)
    time.sleep(99)
""",
        {"memory"},
    ),
    "31 endless stdout": (
        """
    while True: print('x' * 1000)
""",
        {"output_limit"},
    ),
    "32 endless stderr": (
        """
    import sys
    while True: sys.stderr.write('x' * 1000)
""",
        {"output_limit"},
    ),
    "35 endless recursion": (
        """
    import sys
    sys.setrecursionlimit(10**9)
    def f(): return f()
    return f()
""",
        {"exception", "memory"},
    ),
    "36 segfault": (
        """
    import ctypes
    return ctypes.string_at(0)
""",
        {"exception"},
    ),
    "37 garbage on every descriptor": (
        r"""
    import os
    for fd in range(1, 64):
        try: os.write(fd, bytes(range(256)) + b'\n')
        except OSError: pass
    return a + b
""",
        {"violation"},
    ),
    "61 more of everything": (
        """
    import resource
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
        try: resource.setrlimit(kind, (-1, -1))
        except (OSError, ValueError): pass
    return len(bytearray(1 << 30))
""",
        {"memory"},
    ),
    "69 core dump": (
        """
    import os
    os.abort()
""",
        {"exception"},
    ),
    "70 pickle in the answer": (
        """
    class Bomb:
        def __reduce__(self): return (eval, ('1/0',))
    return Bomb()
""",
        {"wrong"},
    ),
    "70 an answer without end": (
        """
    import itertools
    return itertools.count()
""",
        {"wrong"},
    ),
    "70 an answer that is too long": (
        """
    return 'x' * (2 << 20)
""",
        {"output_limit"},
    ),
    "70 a circle": (
        """
    x = []
    x.append(x)
    return x
""",
        {"exception"},
    ),
    "not Python": (
        """
    return a +
""",
        {"compile_error"},
    ),
    "no function": (
        """
    pass
del add
""",
        {"exception"},
    ),
    "a wrong answer": (
        """
    return a - b
""",
        {"wrong"},
    ),
    "raises": (
        """
    raise ValueError('no')
""",
        {"exception"},
    ),
}

ENDLESS: dict[str, str] = {
    "21 a huge power": """
    return 9**9**9
""",
    "26 busy loop": """
    while True: pass
""",
    "27 sleep": """
    import time
    time.sleep(99)
""",
    "28 catches everything": """
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "29 ignores every signal": """
    import signal, time
    for n in range(1, 65):
        try: signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError): pass
    time.sleep(99)
""",
    "30 backtracking in C": """
    import re
    re.match(r'(a+)+$', 'a' * 40 + 'b')
""",
    "33 closes its channels and hangs": """
    import os, time
    os.closerange(0, 64)
    time.sleep(99)
""",
}
