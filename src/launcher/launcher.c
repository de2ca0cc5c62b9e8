/* allgone-launch: what the child is while it enters its containment, before it becomes the user's command.
 *
 *   allgone-launch STATUS CGROUP WAIT SELF TAG SOCKETS EXECUTABLE [ARGV...]
 *
 *   STATUS      fd to report on: struct { int32_t stage, value; }, value being an errno or, for STAGE_BORN, a pid.
 *               It is closed by a successful exec, so end-of-file without an errno means success. "-": report
 *               failures on stderr and exit as env(1) does.
 *   CGROUP      fd of the cgroup.procs file to enter (one "0" is written); or "+" and the fd of the cgroup directory
 *               for the command to be born in by clone3(2) (Linux 5.7); or "@", that of cgroup.procs, ":" and
 *               where cgroup2 is mounted, for the command to be sealed in; or "-". If born, the command is a sibling of
 *               this process, its pid is reported, and this process ends. Entering by a write waits for an RCU grace
 *               period, 5-15 ms, unless somebody else did so just before; a birth does not. Where clone3 can't do
 *               it, the write is made.
 *   WAIT        fd to read one byte from before anything runs, or "-". End-of-file there means that the supervisor
 *               is gone: exit without running the command.
 *   SELF        fd that this program was executed from (/proc/self/fd/N), to be closed, or "-".
 *   TAG         SOFT:HARD, the value for RLIMIT_LOCKS, or "-". The kernel has not enforced this limit since 2.4.25
 *               (getrlimit(2)); children inherit it whatever they call, which makes it a mark of descent.
 *   SOCKETS     "=" and fds, each followed by a comma, for the command to have as 3, 4, ... (sd_listen_fds(3)); none of
 *               them is that low now. LISTEN_PID and WATCHDOG_PID in the environment, if they are there, have a value
 *               of ten zeros, which the command's own pid is written over. "-": neither.
 *   EXECUTABLE  a path, or a name to look up in PATH of the environment given, as execvp(3) and subprocess do.
 *
 * Freestanding: no libc, nothing to initialise, about a tenth of a millisecond from exec to exec.
 */
#include "freestanding.h"

static ulong length(const char *s) { ulong n = 0; while (s[n]) n++; return n; }
static void say(const char *s) { sys3(NR_write, 2, (long)s, (long)length(s)); }

/* The digits of `value`, which end with `buffer`. */
static char *digits_of(int value, char buffer[12]) {
	char *first = buffer + 11;
	*first = 0;
	for (; value; value /= 10) *--first = (char)('0' + value % 10);
	return first;
}

/* Report to the fd `status`, or on stderr where that is -1. */
static void fail(int status, int stage, int error, const char *what) {
	static const char *const doing[] = {"bad arguments", "cannot tag", "cannot enter the cgroup", "supervisor is gone",
	                                    "cannot execute", "", "cannot seal in", "cannot hand over the sockets"};
	if (status >= 0) {
		report(status, stage, error);
		leave(125);
	}
	char digits[12];
	say("allgone-launch: "), say(doing[stage]), say(": "), say(what), say(": errno "), say(digits_of(error, digits)), say("\n");
	leave(stage != STAGE_EXEC ? 125 : error == E_NOENT ? 127 : 126);
}

static ulong number_of(int status, const char **text, char stop, const char *whole) {
	ulong value;
	if (!number(text, stop, &value)) fail(status, STAGE_USAGE, E_INVAL, whole);
	return value;
}

/* An fd argument, made close-on-exec; -1 for "-". `rest`, where given, is what comes behind a colon. */
static int descriptor(int status, const char *arg, const char **rest) {
	if (arg[0] == '-' && !arg[1]) return -1;
	const char *text = arg;
	int fd = (int)number_of(status, &text, rest ? ':' : 0, arg);
	if (rest) *rest = text;
	long r = sys3(NR_fcntl, fd, F_SETFD_, FD_CLOEXEC_);
	if (r < 0) fail(status, STAGE_USAGE, (int)-r, arg);
	return fd;
}

/* `fd`, or a copy behind the numbers that the sockets will have. */
static int out_of_the_way(int status, int fd, int behind) {
	if (fd < 0 || fd >= behind) return fd;
	long r = sys3(NR_fcntl, fd, F_DUPFD_CLOEXEC_, behind);
	if (r < 0) fail(status, STAGE_SOCKETS, (int)-r, "no fd for the launcher");
	return (int)r;
}

/* The first number behind those of the sockets; 0 where there are none. */
static int behind(const char *sockets) {
	int last = 2;
	for (; *sockets; sockets++) last += *sockets == ',';
	return last == 2 ? 0 : last + 1;
}

/* What follows `name` in the variable; 0 if it is another one. */
static char *value_of(char *variable, const char *name) {
	while (*name) if (*variable++ != *name++) return 0;
	return variable;
}

static void hand_over(int status, const char *sockets, char **envp) {
	if (sockets[0] != '=') return;
	const char *text = sockets + 1;
	for (int to = 3; *text; to++) {
		int from = (int)number_of(status, &text, ',', sockets);
		long r = sys3(NR_fcntl, from, F_SETFD_, FD_CLOEXEC_);
		if (r >= 0) r = sys3(NR_dup3, from, to, 0);
		if (r < 0) fail(status, STAGE_SOCKETS, (int)-r, sockets);
	}
	char buffer[12];
	const char *pid = digits_of((int)sys3(NR_getpid, 0, 0, 0), buffer);
	for (; *envp; envp++) {
		char *value = value_of(*envp, "LISTEN_PID=");
		if (!value) value = value_of(*envp, "WATCHDOG_PID=");
		if (value) for (ulong i = 0; value[i]; i++) if (!(value[i] = pid[i])) break;
	}
}

static void tag(int status, const char *arg) {
	if (arg[0] == '-' && !arg[1]) return;
	const char *text = arg;
	ulong limit[2];
	limit[0] = number_of(status, &text, ':', arg);
	limit[1] = number_of(status, &text, 0, arg);
	long r = sys3(NR_setrlimit, RLIMIT_LOCKS_, (long)limit, 0);
	if (r < 0) fail(status, STAGE_TAG, (int)-r, arg);
	/* A guard that looks for the tag from here on finds it. One that has looked already did so after the supervisor's end,
	 * by which nobody reads our reports any more. */
	struct { int fd; short events, revents; } reports = {status, 0, 0};
	struct { long seconds, nanoseconds; } at_once = {0, 0};
	if (status >= 0 && sys5(NR_ppoll, (long)&reports, 1, (long)&at_once, 0, 0) > 0)
		fail(status, STAGE_WAIT, E_PIPE, "before the command was started");
}

static void enter(int status, int procs, const char *what) {
	long r = sys3(NR_write, procs, (long)"0", 1);
	if (r < 0) fail(status, STAGE_ENTER, (int)-r, what);
}

/* Make the cgroup that we are in the root of all that the command can see, and with nsdelegate of all that it can move
 * to. Where the machine's cgroups were mounted that view is. */
static void seal(int status, const char *point) {
	long r = sys3(NR_unshare, (long)(CLONE_NEWNS_ | CLONE_NEWCGROUP_), 0, 0);
	if (r >= 0) r = sys5(NR_mount, (long)"none", (long)"/", 0, MS_REC_ | MS_SLAVE_, 0); /* else it would go on outside */
	if (r >= 0) r = sys3(NR_umount2, (long)point, MNT_DETACH_, 0); /* not covered: a cover can be lifted */
	if (r >= 0) r = sys5(NR_mount, (long)"cgroup2", (long)point, (long)"cgroup2", MS_NOSUID_ | MS_NODEV_ | MS_NOEXEC_, 0);
	if (r < 0) fail(status, STAGE_SEAL, (int)-r, point);
}

static void wait_for_go(int status, int fd) {
	char byte;
	long r;
	do r = sys3(NR_read, fd, (long)&byte, 1); while (r == -E_INTR);
	if (r != 1) fail(status, STAGE_WAIT, r < 0 ? (int)-r : E_PIPE, "before the command was started");
}

static const char *search_path(char **envp) {
	for (; *envp; envp++) {
		const char *path = value_of(*envp, "PATH=");
		if (path) return path;
	}
	return "/bin:/usr/bin"; /* os.defpath */
}

/* Try each directory of PATH; the error to report is the first that says more than "not there". */
static int execute(const char *name, char **argv, char **envp) {
	ulong size = length(name);
	for (ulong i = 0; i < size; i++)
		if (name[i] == '/') return (int)-sys3(NR_execve, (long)name, (long)argv, (long)envp);
	int telling = 0, last = E_NOENT;
	for (const char *dir = search_path(envp);; dir++) {
		char path[PATH_MAX_];
		ulong n = 0;
		for (; *dir && *dir != ':'; dir++) if (n < sizeof path) path[n++] = *dir;
		if (n && path[n - 1] != '/' && n < sizeof path) path[n++] = '/';
		if (n + size + 1 > sizeof path) {
			last = E_NAMETOOLONG;
		} else {
			for (ulong i = 0; i <= size; i++) path[n + i] = name[i];
			last = (int)-sys3(NR_execve, (long)path, (long)argv, (long)envp);
		}
		if (!telling && last != E_NOENT && last != E_NOTDIR) telling = last;
		if (!*dir) return telling ? telling : last;
	}
}

/* The CPUs that we were given to run on. Where cgroups have the cpuset controller, to enter one forgets them before
 * Linux 6.3, and what subprocess starts has them. */
static ulong cpus[128];
static long cpus_size;

static void remember_cpus(void) { cpus_size = sys3(NR_sched_getaffinity, 0, sizeof cpus, (long)cpus); }

static void keep_cpus(void) {
	ulong now[sizeof cpus / sizeof *cpus];
	if (cpus_size <= 0 || sys3(NR_sched_getaffinity, 0, sizeof now, (long)now) != cpus_size) return;
	for (long i = 0; i < cpus_size / (long)sizeof *cpus; i++) {
		if (now[i] == cpus[i]) continue;
		sys3(NR_sched_setaffinity, 0, cpus_size, (long)cpus); /* as far as the cgroup lets it */
		return;
	}
}

__attribute__((noinline, noreturn)) static void become(int status, char **argv, char **envp) {
	keep_cpus();
	hand_over(status, argv[6], envp);
	fail(status, STAGE_EXEC, execute(argv[7], argv + 8, envp), argv[7]);
	__builtin_unreachable();
}

/* Have the command born inside the cgroup, as a child of our parent, and end; or enter it as we are and return. As
 * with vfork(2), the child runs on our memory until it execs: it must not return from here. Session and group that
 * we were given to lead are its to lead. */
static void be_born_in(int status, int cgroup, char **argv, char **envp) {
	struct { ulong flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; }
		args = {.flags = CLONE_VM_ | CLONE_VFORK_ | CLONE_PARENT_ | CLONE_INTO_CGROUP_, .cgroup = (ulong)cgroup};
	long self = sys3(NR_getpid, 0, 0, 0);
	int leads_session = sys3(NR_getsid, 0, 0, 0) == self, leads_group = sys3(NR_getpgid, 0, 0, 0) == self;
	/* Once the command runs, this process must live to report it: a signal for the whole group (Ctrl-C, "kill 0" as the
	 * command's first act) could end it first. */
	ulong all = ~0ul, before = 0;
	sys4(NR_rt_sigprocmask, SIG_SETMASK_, (long)&all, (long)&before, sizeof all);
	long pid = status < 0 ? -1 : sys3(NR_clone3, (long)&args, sizeof args, 0);
	if (pid <= 0) sys4(NR_rt_sigprocmask, SIG_SETMASK_, (long)&before, 0, sizeof before);
	if (pid == 0) {
		if (leads_session) sys3(NR_setsid, 0, 0, 0);
		else if (leads_group) sys3(NR_setpgid, 0, 0, 0);
		become(status, argv, envp);
	}
	if (pid > 0) {
		report(status, STAGE_BORN, (int)pid);
		leave(0);
	}
	long procs = sys3(NR_openat, cgroup, (long)"cgroup.procs", O_WRONLY_ | O_CLOEXEC_);
	if (procs < 0) fail(status, STAGE_ENTER, (int)-procs, argv[2]);
	enter(status, (int)procs, argv[2]);
}

__attribute__((used, noreturn)) void program(long *stack) {
	long argc = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	if (argc < 8) fail(-1, STAGE_USAGE, E_INVAL, "STATUS CGROUP WAIT SELF TAG SOCKETS EXECUTABLE [ARGV...]");
	int born = argv[2][0] == '+', sealed = argv[2][0] == '@';
	const char *point = 0;
	int status = descriptor(-1, argv[1], 0), cgroup = descriptor(status, argv[2] + (born | sealed), sealed ? &point : 0);
	int wait = descriptor(status, argv[3], 0);
	descriptor(status, argv[4], 0);
	int free = behind(argv[6]);
	status = out_of_the_way(status, status, free);
	cgroup = out_of_the_way(status, cgroup, free);
	wait = out_of_the_way(status, wait, free);
	remember_cpus();
	tag(status, argv[5]);
	if (born) be_born_in(status, cgroup, argv, envp);
	else if (cgroup >= 0) enter(status, cgroup, argv[2]);
	if (wait >= 0) wait_for_go(status, wait);
	if (sealed) seal(status, point);
	become(status, argv, envp);
}
