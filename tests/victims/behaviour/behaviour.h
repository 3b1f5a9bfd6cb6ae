// What the files of the behaviour program share.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct command {
    const char *name, *args; // args as shown by usage
    int (*run)(char **argv); // argv[0] is the first argument; 0 = ok
    int needs;               // least number of arguments
};

extern const struct command net_commands[], accept_commands[], file_commands[], process_commands[], place_commands[], inside_commands[];

// Ends the program with one line that says what was wrong.
#define wrong(...) (printf("wrong: " __VA_ARGS__), printf("\n"), exit(1))
// A failed call that should have worked: `error ERRNO call`, the same first two words as the victims print.
#define check(call) check_((long)(call), #call)
long check_(long result, const char *call);

// Prints the one line of a success; returns 0.
__attribute__((format(printf, 1, 2))) int ok(const char *format, ...);
// `ok BYTES FIRST_LINE`: enough to see whose file was read
int ok_content(const char *content, size_t len);

// The whole of a descriptor, NUL-terminated, from its current offset. Never freed: the programs are short.
char *slurp(int fd, size_t *len);
char *slurp_path(const char *path, size_t *len);

void say_listening(int port);
