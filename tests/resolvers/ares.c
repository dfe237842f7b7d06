// A client of c-ares, as libraries in C, C++ and Python use it. For each name on standard input it prints one line: the sorted
// addresses and the canonical name, or the error.

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>

enum { MOST = 256 };

static int compare(const void *a, const void *b) { return strcmp(a, b); }

static void print(void *done, int status, int timeouts, struct ares_addrinfo *all) {
    (void)timeouts;
    *(int *)done = 1;
    if (status != ARES_SUCCESS) {
        printf("%s\n", ares_strerror(status));
        return;
    }
    char texts[MOST][INET6_ADDRSTRLEN];
    size_t count = 0;
    for (const struct ares_addrinfo_node *one = all->nodes; one && count < MOST; one = one->ai_next) {
        const void *address = one->ai_family == AF_INET ? (const void *)&((const struct sockaddr_in *)one->ai_addr)->sin_addr
                                                        : (const void *)&((const struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        if (ares_inet_ntop(one->ai_family, address, texts[count], sizeof texts[count]))
            count++;
    }
    qsort(texts, count, sizeof texts[0], compare);
    for (size_t at = 0; at < count; at++)
        printf("%s ", texts[at]);
    // The name is the one that was asked for; where aliases lead stands behind them.
    const char *name = all->name;
    for (const struct ares_addrinfo_cname *alias = all->cnames; alias; alias = alias->next)
        name = alias->name;
    printf("(%s)\n", name ? name : "");
    ares_freeaddrinfo(all);
}

static void run(ares_channel channel, const int *done) {
    while (!*done) {
        fd_set read, write;
        FD_ZERO(&read);
        FD_ZERO(&write);
        int count = ares_fds(channel, &read, &write);
        struct timeval time, *left = ares_timeout(channel, NULL, &time);
        select(count, &read, &write, NULL, left);
        ares_process(channel, &read, &write);
    }
}

int main(void) {
    ares_channel channel;
    if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
        return 1;
    char name[1024];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = ARES_AI_CANONNAME};
        int done = 0;
        ares_getaddrinfo(channel, name, NULL, &hints, print, &done);
        run(channel, &done);
        fflush(stdout);
    }
    ares_destroy(channel);
    ares_library_cleanup();
    return 0;
}
