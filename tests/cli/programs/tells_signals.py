"""Prints ``ready PID``, then the name of each signal that it gets, until SIGUSR2.

tells_signals.py [WORD...]   end=NAME: exit 0 at this signal; linger=SECONDS: that much later; beside: start a sleep
"""

import os
import signal
import sys
import time

words = dict(word.partition("=")[::2] for word in sys.argv[1:])
if "beside" in words:
    print(f"beside {os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '1000')}", flush=True)
told = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH, signal.SIGUSR2}
told -= {each for each in told if signal.getsignal(each) is signal.SIG_IGN}
signal.pthread_sigmask(signal.SIG_BLOCK, told)
end = getattr(signal, "SIG" + words.get("end", "USR2"))


def say(text):
    os.write(1, f"{text}\n".encode())


say(f"ready {os.getpid()}")
while True:
    got = signal.Signals(signal.sigwaitinfo(told).si_signo)
    say(got.name)
    if got in (end, signal.SIGUSR2):
        time.sleep(float(words.get("linger", 0)))
        sys.exit(0)
