"""First process of a test host: collects the dead, and ends with whoever started it.

When it ends, for whatever reason, the kernel ends all other processes of the host.
"""

import os
import select
import signal
import sys

wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, lambda number, frame: None)
sys.stdout.write("up\n")
sys.stdout.flush()
while True:
    readable, _, _ = select.select([0, wake_read], [], [])
    if wake_read in readable:
        os.read(wake_read, 4096)
    if 0 in readable and not os.read(0, 4096):
        sys.exit(0)
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass
