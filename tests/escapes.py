"""Samples that try to get out, numbered as those in cheats.py, whose task they have.

They add correctly, unless what they try works: then they raise. So one that passes was confined. `{port}`, `{name}` and
`{secret}` stand for things of the host.
"""

ESCAPES: dict[str, str] = {
    "23 fill /tmp": """
    import os, socket, ctypes
    try:
        import tempfile
        for i in range(200): open(f'{tempfile.gettempdir()}/{i}', 'wb').write(bytes(1000000))
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "24 fill the work folder": """
    import os, socket, ctypes
    try:
        for i in range(200): open(f'fill{i}', 'wb').write(bytes(1000000))
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "25 fill /dev/shm": """
    import os, socket, ctypes
    try:
        for i in range(200): open(f'/dev/shm/{i}', 'wb').write(bytes(1000000))
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "34 daemon": """
    import os, time, ctypes
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, b'aqdaemon', 0, 0, 0)
            time.sleep(500)
        os._exit(0)
    return a + b
""",
    "38 TCP": """
    import os, socket, ctypes
    try:
        socket.create_connection(('127.0.0.1', {port}), 2)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "38 UDP": """
    import os, socket, ctypes
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "40 abstract socket": r"""
    import os, socket, ctypes
    try:
        socket.socket(socket.AF_UNIX).connect('\0{name}')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "41 vsock": """
    import os, socket, ctypes
    try:
        socket.socket(40, socket.SOCK_STREAM)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "41 netlink": """
    import os, socket, ctypes
    try:
        socket.socket(16, socket.SOCK_RAW)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "41 packet": """
    import os, socket, ctypes
    try:
        socket.socket(17, socket.SOCK_RAW)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "42 shadow": """
    import os, socket, ctypes
    try:
        open('/etc/shadow').read()
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "42 a file of the host": """
    import os, socket, ctypes
    try:
        open('{secret}').read()
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "43 root's home": """
    import os, socket, ctypes
    try:
        os.listdir('/root')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "43 homes": """
    import os, socket, ctypes
    try:
        os.listdir('/home')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "44 processes of the host": """
    import os, socket, ctypes
    try:
        assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 5 or os.listdir('/nowhere')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "45 write /usr": """
    import os, socket, ctypes
    try:
        open('/usr/lib/aquila-was-here', 'w')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "45 write /": """
    import os, socket, ctypes
    try:
        open('/aquila-was-here', 'w')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "46 remove all": """
    import os, shutil
    for folder in ("/etc", "/dev", "/box", "/proc", "/tmp"):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("usr", "etc", "bin", "lib", "opt", "box"):
        try:
            os.rename("/" + name, "/gone")
        except OSError:
            pass
    return a + b
""",
    "47 out of the memory killer's way": """
    import os, socket, ctypes
    try:
        f = open('/proc/self/oom_score_adj', 'w'); f.write('-1000'); f.flush()
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "48 sysrq": """
    import os, socket, ctypes
    try:
        open('/proc/sysrq-trigger', 'w')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "48 sysctl": """
    import os, socket, ctypes
    try:
        open('/proc/sys/kernel/hostname', 'w')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "49 sys": """
    import os, socket, ctypes
    try:
        os.listdir('/sys/kernel')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "50 device": """
    import os, socket, ctypes
    try:
        os.mknod('disk', 0o60600, os.makedev(8, 0))
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "51 mount": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 165, 'aarch64': 40}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0, 0, 0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "52 user namespace": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 272, 'aarch64': 97}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0x10000000,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "52 user namespace by clone": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0x10000011, 0, 0, 0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "52 user namespace by clone3": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 435, 'aarch64': 435}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "53 root": """
    import os, socket, ctypes
    try:
        os.setuid(0)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "54 ptrace": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 101, 'aarch64': 117}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (16, 1, 0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "54 memory of process 1": """
    import os, socket, ctypes
    try:
        open('/proc/1/mem', 'r+b')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "54 descriptors of process 1": """
    import os, socket, ctypes
    try:
        os.listdir('/proc/1/fd')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "55 keyctl": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 250, 'aarch64': 219}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, -3, 0, 0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "56 bpf": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "57 userfaultfd": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 323, 'aarch64': 282}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (1,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "58 perf_event_open": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 298, 'aarch64': 241}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0, -1, -1, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "59 io_uring": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 425, 'aarch64': 425}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (1, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "60 TIOCSTI": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 16, 'aarch64': 29}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0x5412, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "62 nice": """
    import os, socket, ctypes
    try:
        os.nice(-5)
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "63 environment": """
    import os
    if any('hunter2' in v for v in os.environ.values()): raise Exception('ESCAPED')
    return a + b
""",
    "64 descriptors": """
    import os
    for n in range(256):
        try: path = os.readlink(f'/proc/self/fd/{n}')
        except OSError: continue
        if path.startswith('/') and not path.startswith('/dev/null'): raise Exception('ESCAPED')
    return a + b
""",
    "65 links to the host": """
    import os
    for name in ('sol.py', 'solution.py', 'result.json'):
        if not os.path.lexists(name): os.symlink('/etc/passwd', name)
    return a + b
""",
    "66 kill all": """
    import os
    try: os.kill(-1, 9)
    except OSError: pass
    return a + b
""",
    "66 kill the parent": """
    import os
    for pid in (1, os.getppid() or 1):
        try: os.kill(pid, 9)
        except OSError: pass
    return a + b
""",
    "67 shut the folder": """
    import os
    try:
        os.makedirs("x/y")
        os.chmod("x", 0)
        os.chmod(".", 0)
    except OSError:
        pass
    return a + b
""",
    "68 very long name": """
    import os, socket, ctypes
    try:
        open('x' * 4000, 'w')
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "68 very many files": """
    import os, socket, ctypes
    try:
        for i in range(100000): open(f'n{i}', 'w').close()
    except OSError: pass
    else: raise Exception('ESCAPED')
    return a + b
""",
    "memory file": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 319, 'aarch64': 279}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 0,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
    "shared memory of System V": """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    number = {'x86_64': 29, 'aarch64': 194}[os.uname().machine]
    words = [ctypes.c_long(word) for word in (0, 1 << 30, 0o1600,)]
    if libc.syscall(ctypes.c_long(number), *words) >= 0 or ctypes.get_errno() not in (1, 38): raise Exception('ESCAPED')
    return a + b
""",
}
