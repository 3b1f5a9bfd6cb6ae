// One small check of the kernel's behaviour per subcommand: prints one line `ok ...` and exits 0, or prints what was
// wrong and exits 1. The list is in ../README.md; `behaviour` alone prints it too.
#include "behaviour.h"
#include <fcntl.h>
#include <stdarg.h>

static const struct command *const groups[] = {net_commands, accept_commands, file_commands, process_commands, place_commands, inside_commands};

long check_(long result, const char *call) {
    if (result >= 0) return result;
    const char *name = strerrorname_np(errno);
    printf("error %s %s\n", name ? name : "?", call);
    exit(1);
}

int ok(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("ok ");
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
    return 0;
}

int ok_content(const char *content, size_t len) {
    return ok("%zu %.*s", len, (int)strcspn(content, "\n"), content);
}

char *slurp(int fd, size_t *len) {
    char *buf = NULL;
    size_t have = 0;
    for (;;) {
        buf = realloc(buf, have + 65537);
        ssize_t n = check(read(fd, buf + have, 65536));
        if (n == 0) break;
        have += n;
    }
    buf[have] = 0;
    if (len) *len = have;
    return buf;
}

char *slurp_path(const char *path, size_t *len) {
    int fd = check(open(path, O_RDONLY | O_CLOEXEC));
    char *buf = slurp(fd, len);
    check(close(fd));
    return buf;
}

void say_listening(int port) {
    printf("listening %d\n", port);
    fflush(stdout);
}

int main(int argc, char **argv) {
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct command *c = groups[g]; c->name; c++) {
            if (argc < 2) fprintf(stderr, "%s %s\n", c->name, c->args);
            else if (!strcmp(argv[1], c->name) && argc - 2 >= c->needs) return c->run(argv + 2);
        }
    fprintf(stderr, "usage: behaviour SUBCOMMAND ARGS\n");
    return 2;
}
