// Connecting and UDP. HOST is a numeric IPv4 or IPv6 address; its server must echo what it is sent (echo-server).
// A connect that fails prints `error ERRNO ...`.
#include "behaviour.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/time.h>

struct address {
    struct sockaddr_storage addr;
    socklen_t len;
};

static struct address numeric(const char *host, const char *port, int family) {
    struct addrinfo hints = {.ai_family = family, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    struct address a = {0};
    if (getaddrinfo(host, port, &hints, &list)) wrong("%s port %s is not a numeric address", host, port);
    memcpy(&a.addr, list->ai_addr, a.len = list->ai_addrlen);
    return a;
}

struct text { char s[80]; };

static struct text show(struct address a) {
    struct text t;
    char host[64], port[8];
    getnameinfo((void *)&a.addr, a.len, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(t.s, sizeof t.s, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return t;
}

static struct address name_of(int fd, int (*get)(int, struct sockaddr *, socklen_t *)) {
    struct address a = {.len = sizeof a.addr};
    check(get(fd, (void *)&a.addr, &a.len));
    return a;
}

static void same(const char *what, struct address is, struct address asked) {
    if (strcmp(show(is).s, show(asked).s)) wrong("%s is %s, not %s", what, show(is).s, show(asked).s);
}

// Sends a word of its own on a connected socket and expects it back. The socket ends blocking.
static void talk(int fd) {
    char word[64], reply[64];
    static int count;
    int len = snprintf(word, sizeof word, "ping %d %d\n", getpid(), count++);
    check(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK));
    if (check(send(fd, word, len, MSG_NOSIGNAL)) != len) wrong("short write");
    if (check(recv(fd, reply, len, MSG_WAITALL)) != len || memcmp(word, reply, len)) wrong("a different echo");
}

static int finish(int fd, struct address asked) {
    struct text local = show(name_of(fd, getsockname)), peer = show(name_of(fd, getpeername));
    same("getpeername()", name_of(fd, getpeername), asked);
    talk(fd);
    return ok("%s -> %s", local.s, peer.s);
}

static int connect_blocking(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC);
    int fd = check(socket(to.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    check(connect(fd, (void *)&to.addr, to.len));
    return finish(fd, to);
}

// The pending result of a non-blocking connect, as errno.
static int so_error(int fd) {
    int err;
    socklen_t len = sizeof err;
    check(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len));
    errno = err;
    return err ? -1 : 0;
}

// epoll registered before connect(), as runtimes do: the registration must survive it.
static int connect_nonblock(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
    int poller = check(epoll_create1(EPOLL_CLOEXEC));
    int fd = check(socket(to.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    check(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event));
    check(epoll_wait(poller, &event, 1, 0)); // EPOLLHUP of the unconnected socket
    if (connect(fd, (void *)&to.addr, to.len) == 0) wrong("connect() returned at once");
    if (errno != EINPROGRESS) check(-1 /* connect */);
    do check(epoll_wait(poller, &event, 1, -1));
    while (!(event.events & (EPOLLOUT | EPOLLERR)));
    check(so_error(fd));
    if (!(event.events & EPOLLOUT) || event.events & (EPOLLERR | EPOLLHUP)) wrong("epoll events %#x", event.events);
    return finish(fd, to);
}

static int connect_many(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC);
    int n = atoi(argv[2]), pending = n;
    struct pollfd *fds = calloc(n, sizeof *fds);
    for (int i = 0; i < n; i++) {
        fds[i] = (struct pollfd){check(socket(to.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)), POLLOUT, 0};
        if (connect(fds[i].fd, (void *)&to.addr, to.len) < 0 && errno != EINPROGRESS) check(-1 /* connect */);
    }
    while (pending > 0) {
        check(poll(fds, n, -1));
        for (int i = 0; i < n; i++) {
            if (!fds[i].revents) continue;
            check(so_error(fds[i].fd));
            fds[i].fd = ~fds[i].fd; // poll() skips negative ones
            pending--;
        }
    }
    for (int i = 0; i < n; i++) talk(~fds[i].fd); // all are open at the same time
    return ok("%d", n);
}

// Binds to port (0: any) of the wildcard address, connects, and checks that the port stayed.
static int bound_socket(struct address to, int port) {
    struct address local = numeric(to.addr.ss_family == AF_INET6 ? "::" : "0.0.0.0", "0", to.addr.ss_family);
    int on = 1, fd = check(socket(to.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    ((struct sockaddr_in *)&local.addr)->sin_port = htons(port); // the same place in sockaddr_in6
    check(bind(fd, (void *)&local.addr, local.len));
    return fd;
}

static int port_of(int fd) {
    struct address a = name_of(fd, getsockname);
    return ntohs(((struct sockaddr_in *)&a.addr)->sin_port);
}

static int bound_connect(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC);
    int probe = bound_socket(to, 0), fixed = port_of(probe);
    check(close(probe)); // `fixed` is free now
    for (int i = 0; i < 2; i++) {
        int fd = bound_socket(to, i == 0 ? 0 : fixed), before = port_of(fd);
        check(connect(fd, (void *)&to.addr, to.len));
        if (port_of(fd) != before) wrong("bound to port %d, connected from %d", before, port_of(fd));
        same("getpeername()", name_of(fd, getpeername), to);
        talk(fd);
        if (i == 1) return ok("%s -> %s", show(name_of(fd, getsockname)).s, show(to).s);
        check(close(fd));
    }
    return 1;
}

static int v6_mapped(char **argv) {
    char host[64];
    snprintf(host, sizeof host, "::ffff:%s", argv[0]);
    struct address to = numeric(host, argv[1], AF_INET6);
    int fd = check(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    check(connect(fd, (void *)&to.addr, to.len));
    return finish(fd, to);
}

// ---- UDP. A lost datagram must not hang the test.

static int udp_socket(int family) {
    struct timeval limit = {5, 0};
    int fd = check(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    return fd;
}

static void udp_ask(int fd, struct address to, const char *word) {
    char reply[64] = "";
    struct address from = {.len = sizeof from.addr};
    check(sendto(fd, word, strlen(word), 0, (void *)&to.addr, to.len));
    check(recvfrom(fd, reply, sizeof reply - 1, 0, (void *)&from.addr, &from.len));
    if (strcmp(reply, word)) wrong("a different echo: %s", reply);
    same("the source", from, to);
}

static int udp_echo(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC);
    udp_ask(udp_socket(to.addr.ss_family), to, "one");
    return ok("%s", show(to).s);
}

static int udp_connected(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC), from = {.len = sizeof from.addr};
    char reply[64] = "";
    int fd = udp_socket(to.addr.ss_family);
    check(connect(fd, (void *)&to.addr, to.len));
    same("getpeername()", name_of(fd, getpeername), to);
    check(send(fd, "two", 3, 0));
    check(recvfrom(fd, reply, sizeof reply - 1, 0, (void *)&from.addr, &from.len));
    if (strcmp(reply, "two")) wrong("a different echo: %s", reply);
    same("the source", from, to);
    return ok("%s -> %s", show(name_of(fd, getsockname)).s, show(to).s);
}

static int udp_sendmsg(char **argv) {
    struct address to = numeric(argv[0], argv[1], AF_UNSPEC), from = {0};
    char head[3] = "", tail[61] = "";
    struct iovec out[2] = {{"th", 2}, {"ree", 3}}, in[2] = {{head, 2}, {tail, 60}};
    struct msghdr request = {.msg_name = &to.addr, .msg_namelen = to.len, .msg_iov = out, .msg_iovlen = 2};
    struct msghdr reply = {.msg_name = &from.addr, .msg_namelen = sizeof from.addr, .msg_iov = in, .msg_iovlen = 2};
    int fd = udp_socket(to.addr.ss_family);
    check(sendmsg(fd, &request, 0));
    check(recvmsg(fd, &reply, 0));
    if (strcmp(head, "th") || strcmp(tail, "ree")) wrong("a different echo: %s%s", head, tail);
    from.len = reply.msg_namelen;
    same("the source", from, to);
    return ok("%s", show(to).s);
}

static int udp_many(char **argv) {
    struct address one = numeric(argv[0], argv[1], AF_UNSPEC), two = numeric(argv[0], argv[2], AF_UNSPEC);
    int fd = udp_socket(one.addr.ss_family);
    for (int i = 0; i < 3; i++) {
        udp_ask(fd, one, "first");
        udp_ask(fd, two, "second");
    }
    return ok("%s %s", show(one).s, show(two).s);
}

const struct command net_commands[] = {
    {"connect-blocking", "HOST PORT", connect_blocking, 2},
    {"connect-nonblock", "HOST PORT", connect_nonblock, 2},
    {"connect-many", "HOST PORT N", connect_many, 3},
    {"bound-connect", "HOST PORT", bound_connect, 2},
    {"v6-mapped", "HOST PORT", v6_mapped, 2},
    {"udp-echo", "HOST PORT", udp_echo, 2},
    {"udp-connected", "HOST PORT", udp_connected, 2},
    {"udp-sendmsg", "HOST PORT", udp_sendmsg, 2},
    {"udp-many", "HOST PORT1 PORT2", udp_many, 3},
    {0},
};
