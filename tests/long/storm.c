// The servers and the clients of storm.py, in C so that ten thousand clients in one second leave the
// machine's time to the proxy.
//
//   storm servers AT_ONCE FALLS_AT     Two servers. Each works on AT_ONCE handshakes at a time, 20 ms
//                      for each, and keeps the others waiting. When it has FALLS_AT at once, it falls
//                      over: all of its sockets close, for good. Prints its two ports, then at each line
//                      on stdin the most that each had at once, and whether it fell.
//   storm clients N SECONDS PORT…   N clients, evenly over SECONDS, in turn to the ports, each with one handshake and no second
//                      try; who is in leaves again, or the proxy would need 20,000 descriptors and more.
//                      Prints in JSON how many were in, refused (by status) and lost, and how long it
//                      took; waits 30 s at most.
//
// Loopback only. The servers end when stdin does.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WORK_NS = 20000000, PER_SOURCE = 5000, PATIENCE_S = 30, EVENTS = 512 };

// The example of RFC 6455, section 1.3: saves both sides the SHA-1.
#define HANDSHAKE \
    "GET / HTTP/1.1\r\nHost: storm.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
#define SWITCHING \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

static int poller;

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void watch(int fd, uint32_t events, void *of) {
    struct epoll_event event = {.events = events, .data.ptr = of};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

// Wakes epoll_wait at this moment, to which its own milliseconds are too coarse.
static void wake_at(int timer, uint64_t ns) {
    struct itimerspec at = {.it_value = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL)) fail("timerfd: %s", strerror(errno));
}

// --- servers

enum role { LISTENER, CONNECTION, TIMER, INPUT };

struct server;

struct peer {
    enum role role;
    int fd;
    bool asked, answered;
    uint64_t done_at;
    struct server *server;
    struct peer *next;
};

// First come, first served.
struct line {
    struct peer *first, *last;
    int count;
};

struct server {
    struct peer listener;
    int port, at_once, falls_at, under_way, most;
    bool fell;
    struct line waiting, working;
};

static void append(struct line *line, struct peer *peer) {
    peer->next = NULL;
    if (line->last) line->last->next = peer;
    else line->first = peer;
    line->last = peer;
    line->count++;
}

static struct peer *shift(struct line *line) {
    struct peer *first = line->first;
    line->first = first->next;
    if (!line->first) line->last = NULL;
    line->count--;
    return first;
}

static void begin_work(struct server *s) {
    while (s->waiting.first && s->working.count < s->at_once) {
        struct peer *peer = shift(&s->waiting);
        peer->done_at = now_ns() + WORK_NS;
        append(&s->working, peer);
    }
}

static void end_work(struct server *s, uint64_t now) {
    while (s->working.first && s->working.first->done_at <= now) {
        struct peer *peer = shift(&s->working);
        if (peer->fd >= 0) send(peer->fd, SWITCHING, sizeof SWITCHING - 1, MSG_NOSIGNAL);
        if (peer->fd >= 0 && !peer->answered) s->under_way--;
        peer->answered = true;
    }
    begin_work(s);
}

static struct peer **everybody;
static size_t everybody_count, everybody_room;

static void fall(struct server *s) {
    s->fell = true;
    close(s->listener.fd);
    for (size_t i = 0; i < everybody_count; i++) {
        struct peer *peer = everybody[i];
        if (peer->server == s && peer->fd >= 0) {
            close(peer->fd);
            peer->fd = -1;
        }
    }
    s->waiting = s->working = (struct line){0};
}

static void take(struct server *s) {
    for (;;) {
        int fd = accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        struct peer *peer = calloc(1, sizeof *peer);
        if (!peer) fail("out of memory");
        *peer = (struct peer){.role = CONNECTION, .fd = fd, .server = s};
        if (everybody_count == everybody_room) {
            everybody_room = everybody_room ? 2 * everybody_room : 1024;
            everybody = realloc(everybody, everybody_room * sizeof *everybody);
            if (!everybody) fail("out of memory");
        }
        everybody[everybody_count++] = peer;
        watch(fd, EPOLLIN, peer);
        if (++s->under_way > s->most) s->most = s->under_way;
        if (s->under_way >= s->falls_at) {
            fall(s);
            return;
        }
    }
}

static void hear(struct peer *peer) {
    char bytes[4096];
    struct server *s = peer->server;
    ssize_t got = recv(peer->fd, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        // One that waits or is worked on stays in its line: its work is done for nobody.
        if (!peer->answered) s->under_way--;
        peer->answered = true;
        close(peer->fd);
        peer->fd = -1;
    } else if (!peer->asked) {
        peer->asked = true;
        append(&s->waiting, peer);
        begin_work(s);
    }
}

static void serve(int at_once, int falls_at) {
    struct server servers[2] = {0};
    for (int i = 0; i < 2; i++) {
        struct server *s = &servers[i];
        *s = (struct server){.at_once = at_once, .falls_at = falls_at};
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        socklen_t length = sizeof address;
        s->listener = (struct peer){.role = LISTENER, .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .server = s};
        if (bind(s->listener.fd, (void *)&address, length) || listen(s->listener.fd, 4096) ||
            getsockname(s->listener.fd, (void *)&address, &length))
            fail("servers: %s", strerror(errno));
        s->port = ntohs(address.sin_port);
        watch(s->listener.fd, EPOLLIN, &s->listener);
    }
    struct peer timer = {.role = TIMER, .fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)};
    struct peer input = {.role = INPUT, .fd = 0};
    watch(timer.fd, EPOLLIN, &timer);
    watch(0, EPOLLIN, &input);
    printf("%d %d\n", servers[0].port, servers[1].port);
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            char bytes[64];
            if (peer->role == LISTENER && !peer->server->fell) take(peer->server);
            else if (peer->role == CONNECTION && peer->fd >= 0) hear(peer);
            else if (peer->role == TIMER && read(peer->fd, bytes, 8) < 0) continue;
            else if (peer->role == INPUT) {
                if (read(0, bytes, sizeof bytes) <= 0) return;
                printf("[{\"most\": %d, \"fell\": %d}, {\"most\": %d, \"fell\": %d}]\n", servers[0].most,
                       servers[0].fell, servers[1].most, servers[1].fell);
                fflush(stdout);
            }
        }
        uint64_t now = now_ns(), next = 0;
        for (int i = 0; i < 2; i++) {
            end_work(&servers[i], now);
            struct peer *first = servers[i].working.first;
            if (first && (!next || first->done_at < next)) next = first->done_at;
        }
        if (next) wake_at(timer.fd, next);
    }
}

// --- clients

struct client {
    int fd;
    bool sent;
    uint64_t began;
};

static uint64_t *times;
static int in, lost, over, by_status[600];

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void begin(struct client *c, int number, int port) {
    // Each address of this machine has some 28,000 ports for one server.
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK + 1 + number / PER_SOURCE)}};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(port)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("client %d: %s", number, strerror(errno));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    if (bind(c->fd, (void *)&from, sizeof from)) fail("client %d: %s", number, strerror(errno));
    c->began = now_ns();
    if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) fail("client %d: %s", number, strerror(errno));
    watch(c->fd, EPOLLOUT | EPOLLIN | EPOLLET, c);
}

static void end(struct client *c, int status, uint64_t now) {
    over++;
    close(c->fd);
    c->fd = -1;
    if (status == 101) times[in++] = now - c->began;
    else if (status > 0 && status < 600) by_status[status]++;
    else lost++;
}

static void go_on(struct client *c, uint32_t events, uint64_t now) {
    if (c->fd < 0) return;
    if (!c->sent && events & EPOLLOUT) {
        c->sent = true;
        send(c->fd, HANDSHAKE, sizeof HANDSHAKE - 1, MSG_NOSIGNAL);
    }
    char head[2048];
    ssize_t got = recv(c->fd, head, sizeof head - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return end(c, 0, now);
    head[got] = 0;
    int status = 0;
    // A head comes in one piece on loopback.
    if (sscanf(head, "HTTP/1.%*d %d", &status) != 1) fail("no head: %s", head);
    end(c, status, now);
}

static void come(int count, double seconds, char **ports, int port_count) {
    struct client *clients = calloc(count, sizeof *clients);
    times = calloc(count, sizeof *times);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(timer, EPOLLIN, NULL);
    uint64_t start = now_ns(), last_in = start, step = seconds * 1e9 / count;
    int begun = 0;
    uint64_t last_begun = start;
    while (over < count && now_ns() - start < PATIENCE_S * 1000000000ull) {
        for (; begun < count && now_ns() >= start + begun * step; begun++) {
            begin(&clients[begun], begun, atoi(ports[begun % port_count]));
            last_begun = now_ns();
        }
        if (begun < count) wake_at(timer, start + begun * step);
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, 100);
        uint64_t now = now_ns();
        for (int i = 0; i < ready; i++) {
            uint64_t ignored;
            if (!events[i].data.ptr) {
                if (read(timer, &ignored, sizeof ignored) < 0) continue;
                continue;
            }
            int before = in;
            go_on(events[i].data.ptr, events[i].events, now);
            if (in > before) last_in = now;
        }
    }
    qsort(times, in, sizeof *times, compare);
    printf("{\"in\": %d, \"waiting\": %d, \"lost\": %d, \"came\": %.3f, \"all_in\": %.3f", in, count - over, lost,
           (last_begun - start) / 1e9, (last_in - start) / 1e9);
    if (in) printf(", \"p50\": %.3f, \"p99\": %.3f", times[in / 2] / 1e9, times[(int)(in * 0.99)] / 1e9);
    printf(", \"refused\": {");
    for (int status = 0, first = 1; status < 600; status++) {
        if (!by_status[status]) continue;
        printf("%s\"%d\": %d", first ? "" : ", ", status, by_status[status]);
        first = 0;
    }
    printf("}}\n");
}

int main(int count, char **words) {
    poller = epoll_create1(0);
    if (count == 4 && !strcmp(words[1], "servers")) serve(atoi(words[2]), atoi(words[3]));
    else if (count >= 5 && !strcmp(words[1], "clients")) come(atoi(words[2]), atof(words[3]), words + 4, count - 4);
    else fail("usage: storm servers AT_ONCE FALLS_AT | storm clients N SECONDS PORT...");
}
