/* The yardstick of scripts/bench: the same work in plain C, and two helpers for all variants.
 *
 *   raw serve FOLDER TRUE SLEEP   below the cgroup FOLDER: for each line of stdin do the work, print nanoseconds
 *                                 "true"    mkdir, clone3 into it, waitid, rmdir
 *                                 "sleep"   mkdir, clone3 into it, cgroup.kill, waitid, rmdir
 *                                 "many N"  N of the latter that live at the same time
 *                                 "kill N"  kill N processes in one cgroup: cgroup.kill, waitid, empty, rmdir
 *   raw fork N                    be N processes (this one included); print "ready", then sleep
 *   raw reap CMD...               run CMD; reap at once every orphan that comes from it, as a quick init would
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000, CHECK_AGAIN_NS = 100000 };
struct child { char folder[4096]; int dir; pid_t pid; };
static const char *base, *true_path, *sleep_path, *self_path;
static long made;

static void must(int ok, const char *what) {
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Returns when the command has been executed, as Popen does. `out`: what the child's stdout shall be, or -1. */
static void start(struct child *c, char *const argv[], int out) {
	snprintf(c->folder, sizeof c->folder, "%s/raw-%ld", base, made++);
	must(mkdir(c->folder, 0755) == 0, c->folder);
	must((c->dir = open(c->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0, c->folder);
	struct clone_args args = {.flags = CLONE_INTO_CGROUP | CLONE_VFORK, .exit_signal = SIGCHLD, .cgroup = (uint64_t)c->dir};
	must((c->pid = (pid_t)syscall(SYS_clone3, &args, sizeof args)) >= 0, "clone3");
	if (c->pid == 0) {
		if (out >= 0) dup2(out, 1);
		execv(argv[0], argv);
		_exit(127);
	}
}

static void kill_all(struct child *c) {
	int fd = openat(c->dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, "1", 1) == 1, "cgroup.kill");
	close(fd);
}

static void reap(struct child *c) {
	siginfo_t info;
	must(waitid(P_PID, (id_t)c->pid, &info, WEXITED) == 0, "waitid");
}

static void wait_until_empty(struct child *c) {
	int fd = openat(c->dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	must(fd >= 0, "cgroup.events");
	for (;;) {
		char text[256] = "";
		must(pread(fd, text, sizeof text - 1, 0) > 0, "cgroup.events");
		if (!strstr(text, "populated 1")) break;
		/* The kernel notifies at most once in 10 ms; look more often than that. */
		struct pollfd p = {.fd = fd, .events = POLLPRI};
		struct timespec most = {.tv_nsec = CHECK_AGAIN_NS};
		ppoll(&p, 1, &most, NULL);
	}
	close(fd);
}

static void put_away(struct child *c) {
	close(c->dir);
	must(rmdir(c->folder) == 0, c->folder);
}

static int64_t run_true(void) {
	char *argv[] = {(char *)true_path, NULL};
	static struct child c;
	int64_t began = now();
	start(&c, argv, -1);
	reap(&c);
	put_away(&c);
	return now() - began;
}

static int64_t run_sleeps(long n) {
	char *argv[] = {(char *)sleep_path, "1000", NULL};
	static struct child all[MOST];
	int64_t began = now();
	for (long i = 0; i < n; i++) start(&all[i], argv, -1);
	for (long i = 0; i < n; i++) {
		kill_all(&all[i]);
		reap(&all[i]);
		put_away(&all[i]);
	}
	return now() - began;
}

static int64_t run_kill(const char *n) {
	char *argv[] = {(char *)self_path, "fork", (char *)n, NULL}, line[16];
	static struct child c;
	int ready[2];
	must(pipe2(ready, O_CLOEXEC) == 0, "pipe2");
	start(&c, argv, ready[1]);
	close(ready[1]);
	must(read(ready[0], line, sizeof line) == 6, "the forker did not get ready");
	int64_t began = now();
	kill_all(&c);
	reap(&c);
	wait_until_empty(&c);
	put_away(&c);
	int64_t took = now() - began;
	close(ready[0]);
	return took;
}

static int serve(void) {
	char line[64];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		long n = strncmp(line, "many ", 5) ? 1 : atol(line + 5);
		must(n >= 1 && n <= MOST, line);
		int64_t took = !strcmp(line, "true") ? run_true() : strncmp(line, "kill ", 5) ? run_sleeps(n) : run_kill(line + 5);
		printf("%lld\n", (long long)took);
		fflush(stdout);
	}
	return 0;
}

static void be_many(long n) {
	/* Where the containment fails, nobody shall be left for longer than a benchmark takes. */
	alarm(600);
	for (long i = 1; i < n; i++) {
		pid_t pid = fork();
		must(pid >= 0, "fork");
		if (pid == 0) {
			alarm(600);
			for (;;) pause();
		}
	}
	must(write(1, "ready\n", 6) == 6, "stdout");
	for (;;) pause();
}

static int run_and_reap(char **argv) {
	must(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "prctl");
	signal(SIGCHLD, SIG_IGN); /* children are reaped by the kernel then (wait(2), NOTES) */
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		signal(SIGCHLD, SIG_DFL);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(0);
	close(1);
	waitpid(pid, NULL, 0);
	return 0;
}

int main(int argc, char **argv) {
	self_path = argv[0];
	if (argc == 5 && !strcmp(argv[1], "serve")) {
		base = argv[2], true_path = argv[3], sleep_path = argv[4];
		return serve();
	}
	if (argc == 3 && !strcmp(argv[1], "fork")) be_many(atol(argv[2]));
	if (argc > 2 && !strcmp(argv[1], "reap")) return run_and_reap(argv + 2);
	fprintf(stderr, "usage: raw serve FOLDER TRUE SLEEP | raw fork N | raw reap CMD...\n");
	return 2;
}
