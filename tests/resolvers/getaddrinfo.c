// A client of a C library's resolver, built once for glibc and once for musl. For each name on standard input it prints one line:
// the sorted addresses and the canonical name, or the error. With -4 it asks for addresses of IPv4 alone.

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { MOST = 256 };

static int compare(const void *a, const void *b) { return strcmp(a, b); }

static void print(const struct addrinfo *all) {
    char texts[MOST][INET6_ADDRSTRLEN];
    size_t count = 0;
    for (const struct addrinfo *one = all; one && count < MOST; one = one->ai_next) {
        const void *address = one->ai_family == AF_INET ? (const void *)&((const struct sockaddr_in *)one->ai_addr)->sin_addr
                                                        : (const void *)&((const struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        if (inet_ntop(one->ai_family, address, texts[count], sizeof texts[count]))
            count++;
    }
    qsort(texts, count, sizeof texts[0], compare);
    for (size_t at = 0; at < count; at++)
        printf("%s ", texts[at]);
    printf("(%s)\n", all->ai_canonname ? all->ai_canonname : "");
}

int main(int argc, char **argv) {
    int family = argc > 1 && !strcmp(argv[1], "-4") ? AF_INET : AF_UNSPEC;
    char name[1024];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *all = NULL;
        int error = getaddrinfo(name, NULL, &hints, &all);
        if (error) {
            printf("%s\n", gai_strerror(error));
        } else {
            print(all);
            freeaddrinfo(all);
        }
        fflush(stdout);
    }
    return 0;
}
