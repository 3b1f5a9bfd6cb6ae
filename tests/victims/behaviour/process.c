// Processes, signals and the terminal.
#include "behaviour.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

// Prints what a child wrote to `out`, after checking that it succeeded and that it is what this process reads.
static int same_as_child(pid_t child, int out, const char *path) {
    size_t len, expected_len;
    int status;
    char *content = slurp(out, &len), *expected = slurp_path(path, &expected_len);
    check(waitpid(child, &status, 0));
    if (status != 0) wrong("the child ended with status %#x", status);
    if (len != expected_len || memcmp(content, expected, len)) wrong("the child read %zu bytes, this process %zu", len, expected_len);
    return ok_content(content, len);
}

static int script_chain(char **argv) {
    char script[] = "/tmp/behaviour-XXXXXX";
    const char text[] = "#!/usr/bin/env bash\ncat \"$1\"\n";
    int out[2], fd = check(mkstemp(script));
    check(write(fd, text, sizeof text - 1));
    check(fchmod(fd, 0700));
    check(close(fd)); // before the exec: ETXTBSY
    check(pipe2(out, O_CLOEXEC));
    pid_t child = check(fork());
    if (child == 0) {
        dup2(out[1], 1);
        execl(script, script, argv[0], (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    int result = same_as_child(child, out[0], argv[0]);
    unlink(script);
    return result;
}

static int vfork_exec(char **argv) {
    int out[2];
    check(pipe2(out, O_CLOEXEC));
    pid_t child = vfork();
    if (child == 0) { // nothing but system calls until the exec
        dup2(out[1], 1);
        execl("/bin/cat", "cat", argv[0], (char *)NULL);
        _exit(127);
    }
    check(child);
    close(out[1]);
    return same_as_child(child, out[0], argv[0]);
}

static int spawn(char **argv) {
    char *args[] = {"cat", argv[0], NULL};
    posix_spawn_file_actions_t actions;
    int out[2], err;
    pid_t child;
    check(pipe2(out, O_CLOEXEC));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    err = posix_spawnp(&child, "cat", &actions, NULL, args, environ);
    if (err) wrong("posix_spawnp: %s", strerrorname_np(err));
    close(out[1]);
    return same_as_child(child, out[0], argv[0]);
}

// The program by each of the functions that execute one, with an empty environment where the function takes one: what it prints.
static int exec_family(char **argv) {
    char *how = argv[0], *program = argv[1], *file = argv[2], *name = strrchr(program, '/') + 1;
    char *args[] = {program, "fopen", file, NULL}, *none[] = {NULL}, folder[4096], line[4096];
    int out[2], status;
    snprintf(folder, sizeof folder, "%.*s", (int)(name - 1 - program), program);
    snprintf(line, sizeof line, "%s fopen %s", program, file);
    check(pipe2(out, O_CLOEXEC));
    pid_t child = check(fork());
    if (child == 0) {
        dup2(out[1], 1);
        setenv("PATH", folder, 1);
        int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = open(program, O_PATH | O_CLOEXEC);
        // More arguments than fit into registers; those behind the second are not looked at.
        if (!strcmp(how, "execl")) execl(program, program, "fopen", file, "3", "4", "5", "6", "7", "8", "9", (char *)NULL);
        if (!strcmp(how, "execle")) execle(program, program, "fopen", file, "3", "4", "5", (char *)NULL, none);
        if (!strcmp(how, "execlp")) execlp(name, program, "fopen", file, (char *)NULL);
        if (!strcmp(how, "execv")) execv(program, args);
        if (!strcmp(how, "execve")) execve(program, args, none);
        if (!strcmp(how, "execvp")) execvp(name, args);
        if (!strcmp(how, "execvpe")) execvpe(name, args, none);
        if (!strcmp(how, "fexecve")) fexecve(fd, args, none);
        if (!strcmp(how, "execveat")) execveat(dir, name, args, none, 0);
        if (!strcmp(how, "execveat-empty")) execveat(fd, "", args, none, AT_EMPTY_PATH);
        if (!strcmp(how, "system")) _exit(WEXITSTATUS(system(line)));
        if (!strcmp(how, "popen")) _exit(WEXITSTATUS(pclose(popen(line, "w"))));
        _exit(127);
    }
    close(out[1]);
    char *content = slurp(out[0], NULL);
    check(waitpid(child, &status, 0));
    if (status != 0) wrong("%s: status %#x %s", how, status, content);
    fputs(content, stdout);
    return 0;
}

// Each function of the family says the same of a program that is not there.
static int exec_nowhere(char **argv) {
    (void)argv;
    char *args[] = {"nowhere", NULL}, *none[] = {NULL};
    const char *path = "/nowhere/at-all";
    int results[] = {
        execl(path, "a", "1", "2", "3", "4", "5", "6", (char *)NULL), execle(path, "a", (char *)NULL, none), execlp("nowhere-at-all", "a", (char *)NULL),
        execve(path, args, none), execveat(AT_FDCWD, path, args, none, AT_SYMLINK_NOFOLLOW),
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i] != -1 || errno != ENOENT) wrong("function %zu: %d, %s", i, results[i], strerrorname_np(errno));
    return ok("ENOENT");
}

// The grandchild reads FILE when the first process is gone, and puts OUT in place by rename: never half written.
static int daemonise(char **argv) {
    int gone[2];
    check(pipe(gone));
    pid_t child = check(fork());
    if (child) {
        check(waitpid(child, NULL, 0));
        return ok("%d", child); // the end of this process closes gone[1]
    }
    check(setsid());
    if (check(fork())) _exit(0);
    char temporary[4096], byte;
    size_t len;
    check(chdir("/"));
    check(close(gone[1]));
    for (int fd = 0; fd < 3; fd++) check(dup2(check(open("/dev/null", O_RDWR)), fd));
    check(read(gone[0], &byte, 1)); // end of file: the first process is gone
    char *content = slurp_path(argv[0], &len);
    snprintf(temporary, sizeof temporary, "%s.new", argv[1]);
    int fd = check(open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    check(write(fd, content, len));
    check(close(fd));
    return check(rename(temporary, argv[1]));
}

static int stdin_closed(char **argv) {
    check(dup2(1, 10));
    for (int fd = 0; fd < 3; fd++) close(fd);
    return execl("/proc/self/exe", "behaviour", "stdin-closed-child", argv[0], (char *)NULL);
}

static int stdin_closed_child(char **argv) {
    size_t len;
    int fd = open(argv[0], O_RDONLY), err = errno;
    char *content = fd < 0 ? NULL : slurp(fd, &len);
    // stdout and stderr lead nowhere until here; anything between 0 and 2 but FILE is somebody else's descriptor
    int others = fcntl(1, F_GETFD) >= 0 || fcntl(2, F_GETFD) >= 0;
    check(dup2(10, 1));
    if (fd < 0) wrong("open: %s", strerrorname_np(err));
    if (fd != 0) wrong("open gave descriptor %d, not 0", fd);
    if (others) wrong("descriptor 1 or 2 is open");
    return ok_content(content, len);
}

static int io_uring(char **argv) {
    struct io_uring_params params = {0};
    (void)argv;
    if (syscall(SYS_io_uring_setup, 1, &params) >= 0) return ok("works");
    if (errno == ENOSYS || errno == EPERM) return ok("%s", strerrorname_np(errno)); // EPERM: kernel.io_uring_disabled
    return check(-1 /* io_uring_setup */);
}

static int raise_signal(char **argv) {
    int number = atoi(argv[0]);
    for (int i = 1; i < NSIG && number == 0; i++) {
        const char *name = sigabbrev_np(i);
        if (name && !strcmp(name, argv[0] + (strncmp(argv[0], "SIG", 3) ? 0 : 3))) number = i;
    }
    if (number <= 0) wrong("no signal %s", argv[0]);
    signal(number, SIG_DFL);
    ok("raise %d", number);
    check(raise(number));
    wrong("still alive after signal %d", number);
}

static int exit_code(char **argv) {
    ok("exit %s", argv[0]);
    return atoi(argv[0]);
}

static int winch(char **argv) {
    sigset_t set;
    int number;
    struct winsize size;
    (void)argv;
    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    printf("ready\n");
    fflush(stdout);
    sigwait(&set, &number);
    check(ioctl(0, TIOCGWINSZ, &size));
    return ok("%dx%d", size.ws_row, size.ws_col);
}

static int tty(char **argv) {
    (void)argv;
    const char *name = ttyname(0);
    if (!name) check(-1 /* ttyname */);
    if (check(tcgetpgrp(0)) != getpgrp()) wrong("the foreground group is %d, not %d", tcgetpgrp(0), getpgrp());
    return ok("%s pgrp %d sid %d", name, getpgrp(), (int)check(getsid(0)));
}

static int pidfd(char **argv) {
    siginfo_t info;
    (void)argv;
    int self = check(syscall(SYS_pidfd_open, getpid(), 0));
    check(syscall(SYS_pidfd_send_signal, self, 0, NULL, 0));
    if (check(poll(&(struct pollfd){self, POLLIN, 0}, 1, 0)) != 0) wrong("readable while the process lives");
    pid_t child = check(fork());
    if (child == 0) _exit(7);
    int fd = check(syscall(SYS_pidfd_open, child, 0));
    if (check(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 5000)) != 1) wrong("not readable after the child's end");
    check(waitid(P_PIDFD, fd, &info, WEXITED));
    if (info.si_pid != child || info.si_status != 7) wrong("waitid says pid %d status %d", info.si_pid, info.si_status);
    return ok("%d", getpid());
}

static int parent(char **argv) {
    char *stat = slurp_path("/proc/self/stat", NULL), *after_name = strrchr(stat, ')');
    (void)argv;
    if (!after_name || atoi(after_name + 4) != getppid()) wrong("getppid() is %d, /proc/self/stat has%s", getppid(), after_name);
    return ok("%d", getppid());
}

const struct command process_commands[] = {
    {"script-chain", "FILE", script_chain, 1},
    {"vfork-exec", "FILE", vfork_exec, 1},
    {"posix-spawn", "FILE", spawn, 1},
    {"exec-family", "FUNCTION PROGRAM FILE", exec_family, 3},
    {"exec-nowhere", "", exec_nowhere, 0},
    {"daemon", "FILE OUT", daemonise, 2},
    {"stdin-closed", "FILE", stdin_closed, 1},
    {"stdin-closed-child", "FILE", stdin_closed_child, 1},
    {"io-uring", "", io_uring, 0},
    {"raise", "SIGNAL", raise_signal, 1},
    {"exit", "CODE", exit_code, 1},
    {"winch", "", winch, 0},
    {"tty", "", tty, 0},
    {"pidfd", "", pidfd, 0},
    {"getppid", "", parent, 0},
    {0},
};
