/* allgone-guard: what outlives a supervisor that was killed, and ends what that leaves behind.
 *
 *   allgone-guard STATUS PIPE PIDFD REGISTER OWN [PROGRAM [ARGV...]]
 *
 *   The numbers of the fds are below 64; all others are closed.
 *
 *   STATUS      fd to report on, as the launcher does: STAGE_BORN and the guard's pid, which is nobody's child.
 *   PIPE        fd on which the supervisor speaks, 5 bytes a word: 'q': end. 'e' and the number of a home in the
 *               register: move to the cgroup guard/ in it. 'l' and such a number: leave that. 's' and a number of
 *               half seconds: systemd is asked to make us the first process of a scope, and is to be given that time;
 *               's' and 0: no longer. End-of-file says nothing, for the supervisor may have execed.
 *   PIDFD       the supervisor's: when it ends, everything in the register is ended.
 *   REGISTER    fd of the supervisor's list of what there is to end (_linux/register.py has the layout). Or "-": just
 *               hold a place, as a scope needs a process, until end-of-file on PIPE or the supervisor's end.
 *   OWN         the supervisor's cgroup directory, or "-": where to go to, when guard/ is to be removed.
 *   PROGRAM     finishes the work by the supervisor's policies; absent files or memory must not be in the way, so
 *               what can be killed at once is killed before that.
 *
 * A session of its own, all signals blocked but SIGTERM (systemctl stop; blocked as well once there is work to do).
 * It sleeps in poll(2) and holds some ten kilobytes of memory.
 */
#include "freestanding.h"

enum { PAGE = 4096, DT_DIR_ = 4, POLLIN_ = 1, AT_EMPTY_PATH_ = 0x1000, STATX_INO_ = 0x100, HOMES = 1024, FIRST_FDS = 64,
       LOOKS = 1000 }; /* a millisecond apart */

struct header { unsigned version, homes; };
struct home { ulong inode; char path[PAGE - sizeof(ulong)]; };
struct entry { ulong inode, offset; unsigned short size; unsigned char type; char name[]; };

static int descriptor(const char *arg) {
	ulong fd;
	if (arg[0] == '-' && !arg[1]) return -1;
	if (!number(&arg, 0, &fd)) leave(125);
	return (int)fd;
}

static int same(const char *a, const char *b) {
	while (*a && *a == *b) a++, b++;
	return *a == *b;
}

/* The words one after the other, as a path of at most PAGE bytes. */
static const char *path_of(const char *a, const char *b, const char *c) {
	static char path[PAGE];
	const char *words[] = {a, b, c};
	ulong n = 0;
	for (int i = 0; i < 3; i++)
		for (const char *s = words[i]; *s && n < sizeof path - 1; s++) path[n++] = *s;
	path[n] = 0;
	return path;
}

static int put(const char *path, const char *text) {
	long fd = sys4(NR_openat, AT_FDCWD_, (long)path, O_WRONLY_ | O_CLOEXEC_, 0), r;
	if (fd < 0) return 0;
	r = sys3(NR_write, fd, (long)text, 1);
	sys3(NR_close, fd, 0, 0);
	return r == 1;
}

static int has_mark(const char *path, const char *name) {
	char value[64];
	return sys4(NR_getxattr, (long)path, (long)name, (long)value, sizeof value) >= 0;
}

static int read_home(int list, ulong n, struct home *home) {
	long got = sys4(NR_pread64, list, (long)home, sizeof *home, (long)((n + 1) * PAGE));
	home->path[sizeof home->path - 1] = 0;
	return got == sizeof *home && home->path[0];
}

static int is_scope(const char *path) {
	ulong n = 0;
	while (path[n]) n++;
	return n > 6 && same(path + n - 6, ".scope");
}

static ulong inode_of(int fd) {
	ulong facts[32];
	long r = sys5(NR_statx, fd, (long)"", AT_EMPTY_PATH_, STATX_INO_, (long)facts);
	return r < 0 ? 0 : facts[4]; /* stx_ino, at 0x20 on every machine */
}

/* One write for each containment, but for those that have the mark; the cgroup guard/, where we are, is left out. */
static void kill_all_in(const struct home *home, const char *spared) {
	char buffer[PAGE] __attribute__((aligned(8)));
	long folder = sys4(NR_openat, AT_FDCWD_, (long)home->path, O_DIRECTORY_ | O_CLOEXEC_, 0), got;
	if (folder < 0) return;
	if (!home->inode || home->inode == inode_of((int)folder))
		while ((got = sys3(NR_getdents64, folder, (long)buffer, sizeof buffer)) > 0)
			for (long at = 0; at < got;) {
				struct entry *each = (struct entry *)(buffer + at);
				at += each->size;
				if (each->type != DT_DIR_ || each->name[0] == '.' || same(each->name, "guard")) continue;
				if (has_mark(path_of(home->path, "/", each->name), "user.allgone.released")) continue;
				if (spared && has_mark(path_of(home->path, "/", each->name), spared)) continue;
				char name[PAGE];
				ulong n = 0;
				for (; each->name[n] && n < 255; n++) name[n + 1] = each->name[n];
				name[0] = '/', name[n + 1] = 0;
				put(path_of(home->path, name, "/cgroup.kill"), "1");
			}
	sys3(NR_close, folder, 0, 0);
}

static void kill_all(int list, const struct header *header, const char *spared) {
	static struct home home;
	for (ulong n = 0; n < header->homes && n < HOMES; n++)
		if (read_home(list, n, &home)) kill_all_in(&home, spared);
}

static void pause_a_little(void) {
	struct { long seconds, nanoseconds; } pause = {0, 1000000};
	sys4(NR_ppoll, 0, 0, (long)&pause, 0);
}

static struct place { long size; char text[PAGE]; } born;
static ulong time_to_move; /* half seconds */

static void look_where_we_are(struct place *place) {
	long fd = sys4(NR_openat, AT_FDCWD_, (long)"/proc/self/cgroup", O_CLOEXEC_, 0);
	place->size = fd < 0 ? 0 : sys3(NR_read, fd, (long)place->text, sizeof place->text);
	if (fd >= 0) sys3(NR_close, fd, 0, 0);
}

static int is_there(const struct place *a, const struct place *b) {
	long n = 0;
	while (n < a->size && n < b->size && a->text[n] == b->text[n]) n++;
	return n == a->size && n == b->size;
}

/* systemd can put a process into a scope that has ended already, if nobody has reaped it. Then there never was anything
 * in the scope, so it never becomes empty, and stays. Hence nobody ends who may just be being moved. */
static void leave_once_moved(void) {
	static struct place now;
	for (ulong look = 0; look < time_to_move * LOOKS / 2; look++) {
		look_where_we_are(&now);
		if (!is_there(&born, &now)) break;
		pause_a_little();
	}
	leave(0);
}

/* Homes that are empty by now; ours is when the process that we were has gone. A scope's directory is systemd's. */
static void remove_homes(int list, const struct header *header) {
	static struct home home;
	for (ulong n = 0; n < header->homes && n < HOMES; n++) {
		if (!read_home(list, n, &home) || is_scope(home.path)) continue;
		for (int look = 0; look < LOOKS; look++) {
			long r = sys3(NR_unlinkat, AT_FDCWD_, (long)path_of(home.path, "/guard", ""), AT_REMOVEDIR_);
			if (r != -E_BUSY) break;
			pause_a_little();
		}
		sys3(NR_unlinkat, AT_FDCWD_, (long)home.path, AT_REMOVEDIR_);
	}
}

/* The program's exit status; -1 if it could not be run to its end. */
static int run(char **argv, char **envp) {
	int status = -1;
	long pid = sys5(NR_clone, SIGCHLD_, 0, 0, 0, 0);
	if (pid == 0) {
		sys3(NR_execve, (long)argv[0], (long)argv, (long)envp);
		leave(127);
	}
	if (pid < 0 || sys4(NR_wait4, pid, (long)&status, 0, 0) != pid) return -1;
	return status;
}

/* Go on as another process, born in that cgroup: entering it would wait for an RCU grace period, and while that lasts
 * let nobody on the machine fork. */
static int reborn_in(const char *folder) {
	struct { ulong flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; }
		args = {.flags = CLONE_INTO_CGROUP_, .exit_signal = SIGCHLD_};
	long fd = sys4(NR_openat, AT_FDCWD_, (long)folder, O_DIRECTORY_ | O_CLOEXEC_, 0), pid;
	if (fd < 0) return 0;
	args.cgroup = (ulong)fd;
	pid = sys3(NR_clone3, (long)&args, sizeof args, 0);
	if (pid > 0) leave(0);
	sys3(NR_close, fd, 0, 0);
	return pid == 0 || put(path_of(folder, "/cgroup.procs", ""), "0"); /* Linux before 5.7, or no pid is left */
}

/* Out of guard/: to the supervisor's cgroup while that lives, so as not to be in the way of who removes the one that the
 * home is in; after its death the other way round, for its cgroup may be about to be killed. Of a scope we are the first
 * process. Neither can be entered where controllers are handed down: its processes are below it, then. */
static void leave_home(struct home *home, const char *own, int is_alive) {
	static const char supervisors[] = "/allgone.supervisors";
	ulong slash = 0;
	if (is_scope(home->path)) return;
	for (ulong n = 0; home->path[n]; n++) if (home->path[n] == '/') slash = n;
	home->path[slash] = 0;
	if (reborn_in(is_alive ? own : home->path) || reborn_in(is_alive ? home->path : own)) return;
	for (ulong n = 0; n < sizeof supervisors && slash + n < sizeof home->path - 1; n++) home->path[slash + n] = supervisors[n];
	reborn_in(home->path);
}

/* As long as this is not done we stay in guard/, which keeps janitors away. */
static void end_all(int list, const char *own, long guarded, char **argv, char **envp) {
	static struct home home;
	struct header header = {0, 0};
	ulong all = ~0ul;
	sys4(NR_rt_sigprocmask, SIG_SETMASK_, (long)&all, 0, sizeof all);
	sys4(NR_pread64, list, (long)&header, sizeof header, 0);
	kill_all(list, &header, "user.allgone.polite");
	if (*argv && run(argv, envp) != 0) kill_all(list, &header, 0);
	if (guarded >= 0 && read_home(list, (ulong)guarded, &home)) leave_home(&home, own, 0);
	remove_homes(list, &header);
	leave_once_moved();
}

/* What the supervisor said; false at end-of-file. `guarded`: the home whose guard/ we are in. */
static int obey(int pipe, int list, const char *own, long *guarded) {
	static struct home home;
	unsigned char message[5];
	long got;
	do got = sys3(NR_read, pipe, (long)message, sizeof message); while (got == -E_INTR);
	if (got <= 0) return 0;
	if (message[0] == 'q') leave_once_moved();
	ulong n = message[1] | (ulong)message[2] << 8;
	if (message[0] == 's') time_to_move = n;
	if (got != sizeof message || !read_home(list, n, &home)) return 1;
	if (message[0] == 'e') {
		static char folder[PAGE];
		const char *path = path_of(home.path, "/guard", "");
		for (ulong i = 0; i < sizeof folder && (folder[i] = path[i]); i++);
		reborn_in(folder);
		*guarded = (long)n;
	} else if (message[0] == 'l') {
		leave_home(&home, own, 1);
		*guarded = -1;
	}
	return 1;
}

static void keep_watch(int pipe, int supervisor, int list, const char *own, char **argv, char **envp) {
	struct { int fd; short events, revents; } watched[2] = {{pipe, POLLIN_, 0}, {supervisor, POLLIN_, 0}};
	long guarded = -1;
	for (;;) {
		if (sys5(NR_ppoll, (long)watched, 2, 0, 0, 0) <= 0) continue;
		if (watched[0].revents) { /* its last words come first */
			if (obey(pipe, list, own, &guarded)) continue;
			watched[0].fd = -1;
			if (list < 0) leave_once_moved();
		} else if (list < 0) {
			leave_once_moved();
		} else {
			end_all(list, own, guarded, argv, envp);
		}
	}
}

/* What we were told of stays open; nobody's pipe or mount is held by what we were given besides. */
static void let_go_of_the_rest(const int *told, int count) {
	for (int fd = 3; fd < FIRST_FDS; fd++) {
		int is_told = 0;
		for (int i = 0; i < count; i++) is_told |= told[i] == fd;
		if (!is_told) sys3(NR_close, fd, 0, 0);
	}
	if (sys3(NR_close_range, FIRST_FDS, (long)~0u, 0) < 0) /* Linux before 5.9 */
		for (int fd = FIRST_FDS; fd < 65536; fd++) sys3(NR_close, fd, 0, 0);
	sys3(NR_chdir, (long)"/", 0, 0);
}

__attribute__((used, noreturn)) void program(long *stack) {
	long argc = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	if (argc < 6) leave(125);
	int told[4];
	for (int i = 0; i < 4; i++) told[i] = descriptor(argv[i + 1]);
	int status = told[0], pipe = told[1], supervisor = told[2], list = told[3];
	look_where_we_are(&born); /* before anybody can know whom to move */
	long pid = sys5(NR_clone, SIGCHLD_, 0, 0, 0, 0);
	if (pid != 0) {
		report(status, pid < 0 ? STAGE_WAIT : STAGE_BORN, (int)(pid < 0 ? -pid : pid));
		leave(pid < 0 ? 125 : 0);
	}
	ulong all_but_term = ~(1ul << (SIGTERM_ - 1));
	sys4(NR_rt_sigprocmask, SIG_SETMASK_, (long)&all_but_term, 0, sizeof all_but_term);
	sys3(NR_setsid, 0, 0, 0);
	let_go_of_the_rest(told + 1, 3);
	keep_watch(pipe, supervisor, list, argv[5], argv + 6, envp);
	__builtin_unreachable();
}
