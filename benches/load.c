// The origin and the load of compare.py, in C so that what it shows is the proxy and not its client.
//
//   load origin [CERTIFICATE KEY]   echoes WebSocket messages, answers GETs, and begins event streams
//                      that it leaves at their first event. Prints its ports, that for TLS among
//                      them if there is a certificate, then its counts at each line on stdin.
//   load client PORT [tls | tls-tls]   does what the lines on stdin say and answers each with one line
//                      of JSON. With tls-tls it asks for what the proxy gets from the origin by TLS.
//
//     open N             opens N sessions, 64 at a time
//     echo SIZE SECONDS  every session sends a message, waits for its echo, and again
//     once SIZE          every session does so once, 64 at a time
//     close              ends every session with a Close frame that must be answered
//     handshakes N SECONDS   N workers: connect, handshake, Close, and again
//     get N SECONDS      N connections: GET, and again
//     stream N           begins N event streams, 64 at a time, and waits for the first event of each
//     leave              ends every event stream by closing its connection
//
// Every byte of every answer is checked but the proxy's own header fields. What is wrong is said
// on stderr and ends the program with status 1. Both end when stdin does.
// TLS is OpenSSL's, if it is compiled with -DWITH_TLS and linked with it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { LARGEST_MESSAGE = 16384, BUFFER = LARGEST_MESSAGE + 2048, AT_A_TIME = 64, SILENCE_MS = 10000 };

// The example of RFC 6455, section 1.3: saves both sides the SHA-1.
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define UPGRADE(path) \
    "GET " path " HTTP/1.1\r\nHost: bench.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n\r\n"
#define SWITCHING \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Accept: " ACCEPT "\r\n\r\n"
#define GET "GET /page HTTP/1.1\r\nHost: bench.test\r\nAccept: */*\r\n\r\n"
#define BODY "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789ABCDEF" \
             "fedcba9876543210fedcba9876543210FEDCBA9876543210fedcba987654321\n"
#define PAGE "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n" BODY
_Static_assert(sizeof BODY - 1 == 128, "PAGE says 128");

#define EVENTS "GET /events HTTP/1.1\r\nHost: bench.test\r\nAccept: text/event-stream\r\n\r\n"
#define EVENT "id: 1\ndata: the first event of them\n\n"
#define STREAM \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n" \
    "Transfer-Encoding: chunked\r\n\r\n25\r\n" EVENT "\r\n"
_Static_assert(sizeof EVENT - 1 == 0x25, "STREAM says 25");

static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
static const uint8_t CLOSE_1000[4] = {0x88, 0x02, 0x03, 0xe8};

enum step { IDLE, HELLO, ECHO, PAGE_DUE, EVENT_DUE, BYE };

struct connection {
    int fd;
    uint32_t number, sequence;
    enum step step;             // client: the answer that is due
    bool upgraded, last;        // origin: speaks WebSocket; ends when `out` is gone
    bool wants_out;
    const uint8_t *out;
    size_t out_left, in_len, consumed;
    uint8_t *in, *frame;
    uint64_t begun;
    SSL *tls;                   // NULL is plain text
};

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

static void watch(int operation, struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static uint8_t *buffer(void) {
    uint8_t *bytes = malloc(BUFFER);
    if (!bytes) fail("out of memory");
    return bytes;
}

static void set_nodelay(int fd) {
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int))) fail("TCP_NODELAY: %s", strerror(errno));
}

// As send(2) and recv(2), whatever is between. A TLS handshake is part of the first of them.
#ifdef WITH_TLS
static SSL_CTX *tls_context;

static void speak_tls(const SSL_METHOD *method) {
    tls_context = SSL_CTX_new(method);
    if (!tls_context) fail("no TLS");
    // Thousands of them are idle.
    SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE);
}

static void speak_tls_as_client(void) {
    speak_tls(TLS_client_method());
}

static void speak_tls_as_server(const char *certificate, const char *key) {
    speak_tls(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(tls_context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls_context, key, SSL_FILETYPE_PEM) != 1)
        fail("origin: no certificate in %s with the key in %s", certificate, key);
}

static void accept_tls(struct connection *c) {
    c->tls = SSL_new(tls_context);
    if (!c->tls || !SSL_set_fd(c->tls, c->fd)) fail("origin: no TLS");
    SSL_set_accept_state(c->tls);
}

static void say_end_of_tls(struct connection *c) {
    if (!c->tls) return;
    if (SSL_is_init_finished(c->tls)) SSL_shutdown(c->tls);
    // What fails for this connection must not be taken for a failure of the next one.
    ERR_clear_error();
}

static void begin_tls(struct connection *c) {
    if (!tls_context) return;
    c->tls = SSL_new(tls_context);
    if (!c->tls || !SSL_set_fd(c->tls, c->fd) || !SSL_set_tlsext_host_name(c->tls, "bench.test"))
        fail("client: no TLS");
    SSL_set_connect_state(c->tls);
}

static void end_tls(struct connection *c) {
    SSL_free(c->tls);
    c->tls = NULL;
}

static ssize_t of_tls(struct connection *c, int result) {
    if (result > 0) return result;
    int why = SSL_get_error(c->tls, result);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) errno = EAGAIN;
    else if (why == SSL_ERROR_ZERO_RETURN || c->step == BYE) return 0;
    else if (why == SSL_ERROR_SSL) errno = EPROTO;
    ERR_clear_error();
    return -1;
}

static ssize_t transmit(struct connection *c, const void *bytes, size_t length) {
    return c->tls ? of_tls(c, SSL_write(c->tls, bytes, length)) : send(c->fd, bytes, length, MSG_NOSIGNAL);
}

static ssize_t receive(struct connection *c, void *bytes, size_t length) {
    return c->tls ? of_tls(c, SSL_read(c->tls, bytes, length)) : recv(c->fd, bytes, length, 0);
}

static bool has_more(struct connection *c) {
    return c->tls && SSL_pending(c->tls) > 0;
}
#else
static void speak_tls_as_client(void) {
    fail("client: built without TLS");
}

static void speak_tls_as_server(const char *certificate, const char *key) {
    fail("origin: built without TLS, no use for %s and %s", certificate, key);
}

static void accept_tls(struct connection *c) {
    c->tls = NULL;
}

static void say_end_of_tls(struct connection *c) {
    c->tls = NULL;
}

static void begin_tls(struct connection *c) {
    c->tls = NULL;
}

static void end_tls(struct connection *c) {
    c->tls = NULL;
}

static ssize_t transmit(struct connection *c, const void *bytes, size_t length) {
    return send(c->fd, bytes, length, MSG_NOSIGNAL);
}

static ssize_t receive(struct connection *c, void *bytes, size_t length) {
    return recv(c->fd, bytes, length, 0);
}

static bool has_more(struct connection *c) {
    return c->tls;
}
#endif

// Sends what is left of `out`; false when the peer has gone.
static bool flush_out(struct connection *c) {
    while (c->out_left) {
        ssize_t sent = transmit(c, c->out, c->out_left);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent < 0) break;
        c->out += sent;
        c->out_left -= sent;
    }
    if (c->wants_out != (c->out_left > 0)) {
        c->wants_out = c->out_left > 0;
        // One thing at a time: nothing is read while an answer or a message is on its way out.
        watch(EPOLL_CTL_MOD, c, c->wants_out ? EPOLLOUT : EPOLLIN);
    }
    return true;
}

static size_t head_length(const uint8_t *bytes, size_t length) {
    const uint8_t *end = memmem(bytes, length, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

// Whether a field of the head, which ends in NUL, begins with `value`.
static bool has_field(const char *head, const char *name_and_colon, const char *value) {
    const char *field = strcasestr(head, name_and_colon);
    if (!field) return false;
    field += strlen(name_and_colon);
    while (*field == ' ') field++;
    return !strncasecmp(field, value, strlen(value));
}

static int epoll_ready(struct epoll_event *events, int most, int timeout) {
    int ready;
    do ready = epoll_wait(poller, events, most, timeout);
    while (ready < 0 && errno == EINTR);
    if (ready < 0) fail("epoll_wait: %s", strerror(errno));
    return ready;
}

// ---------------------------------------------------------------------------------------- origin

static struct { unsigned long handshakes, messages, gets, streams, forwarded; } seen;

static void drop(struct connection *c) {
    say_end_of_tls(c);
    end_tls(c);
    close(c->fd);
    free(c->in);
    free(c);
}

static void answer(struct connection *c, const void *bytes, size_t length) {
    c->out = bytes;
    c->out_left = length;
}

static void answer_head(struct connection *c, size_t length) {
    char *head = (char *)c->in;
    head[length - 1] = 0;
    seen.forwarded += has_field(head, "\nX-Forwarded-For:", "127.0.0.1");
    c->consumed = length;
    if (has_field(head, "\nUpgrade:", "websocket") && has_field(head, "\nSec-WebSocket-Key:", KEY)) {
        seen.handshakes++;
        c->upgraded = true;
        answer(c, SWITCHING, sizeof SWITCHING - 1);
    } else if (!strncmp(head, "GET /page ", 10)) {
        seen.gets++;
        answer(c, PAGE, sizeof PAGE - 1);
    } else if (!strncmp(head, "GET /events ", 12)) {
        seen.streams++;
        answer(c, STREAM, sizeof STREAM - 1);
    } else {
        fail("origin: a request that nobody sent: %.200s", head);
    }
}

// Echoes the first frame in `in` from where it lies; false when it is not whole yet.
static bool answer_frame(struct connection *c) {
    uint8_t *in = c->in;
    if (c->in_len < 8) return false;
    size_t length = in[1] & 127, head = 6;
    if (!(in[1] & 128) || length == 127) fail("origin: a frame without mask, or too long");
    if (length == 126) length = in[2] << 8 | in[3], head = 8;
    if (head + length > BUFFER) fail("origin: a frame of %zu bytes", length);
    if (c->in_len < head + length) return false;

    uint64_t mask;
    memcpy(&mask, in + head - 4, 4);
    memcpy((uint8_t *)&mask + 4, in + head - 4, 4);
    uint8_t *payload = in + head;
    size_t at = 0;
    for (; at + 8 <= length; at += 8) {
        uint64_t word;
        memcpy(&word, payload + at, 8);
        word ^= mask;
        memcpy(payload + at, &word, 8);
    }
    for (; at < length; at++) payload[at] ^= ((uint8_t *)&mask)[at & 7];

    // The head without the mask is four bytes shorter: it fits in front of the payload.
    if (length < 126) in[4] = in[0], in[5] = length;
    else in[7] = in[3], in[6] = in[2], in[5] = 126, in[4] = in[0];
    int opcode = in[4] & 15;
    if (opcode == 8) c->last = true;
    else if (opcode == 1 || opcode == 2) seen.messages++;
    else fail("origin: a frame of opcode %d", opcode);
    c->consumed = head + length;
    answer(c, in + 4, head - 4 + length);
    return true;
}

// Reads and answers until there is nothing to do; false when the connection is over.
static bool serve(struct connection *c) {
    for (;;) {
        if (!flush_out(c)) return false;
        if (c->out_left) return true;
        if (c->last) return false;
        memmove(c->in, c->in + c->consumed, c->in_len - c->consumed);
        c->in_len -= c->consumed;
        c->consumed = 0;

        if (c->upgraded && answer_frame(c)) continue;
        size_t head = c->upgraded ? 0 : head_length(c->in, c->in_len);
        if (head) {
            answer_head(c, head);
            continue;
        }
        if (c->in_len == BUFFER) fail("origin: a request without end");
        ssize_t got = receive(c, c->in + c->in_len, BUFFER - c->in_len);
        if (got < 0 && errno == EAGAIN) return true;
        if (got <= 0) return false;
        c->in_len += got;
    }
}

static void accept_all(int listener, bool by_tls) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0 && errno == EAGAIN) return;
        if (fd < 0) fail("origin: accept: %s", strerror(errno));
        set_nodelay(fd);
        struct connection *c = calloc(1, sizeof *c);
        if (!c) fail("out of memory");
        c->fd = fd;
        c->in = buffer();
        if (by_tls) accept_tls(c);
        watch(EPOLL_CTL_ADD, c, EPOLLIN);
    }
}

// Returns the port.
static int listen_on(struct connection *listener) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener->fd, (void *)&address, size) || listen(listener->fd, 4096) ||
        getsockname(listener->fd, (void *)&address, &size))
        fail("origin: listen: %s", strerror(errno));
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    return ntohs(address.sin_port);
}

static void origin(bool has_tls) {
    struct connection listener = {0}, tls_listener = {0}, commands = {.fd = STDIN_FILENO};
    int port = listen_on(&listener), tls_port = has_tls ? listen_on(&tls_listener) : 0;
    watch(EPOLL_CTL_ADD, &commands, EPOLLIN);
    printf("{\"port\": %d, \"tls_port\": %d}\n", port, tls_port);

    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_ready(events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            char line[64];
            if (c == &listener || c == &tls_listener) {
                accept_all(c->fd, c == &tls_listener);
            } else if (c == &commands) {
                if (read(STDIN_FILENO, line, sizeof line) <= 0) exit(0);
                printf("{\"handshakes\": %lu, \"messages\": %lu, \"gets\": %lu, \"streams\": %lu, "
                       "\"forwarded\": %lu}\n",
                       seen.handshakes, seen.messages, seen.gets, seen.streams, seen.forwarded);
            } else if (!serve(c)) {
                drop(c);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------- client

enum job { OPEN, ECHOES, CLOSE, HANDSHAKES, GETS, STREAMS, LEAVE };

static struct sockaddr_in proxy = {.sin_family = AF_INET};
static struct connection *connections;
static uint32_t sessions;           // that are open, or event streams
static const char *upgrade = UPGRADE("/echo");
static uint8_t pattern[LARGEST_MESSAGE];

static enum job job;
static size_t message_size;
static uint64_t deadline;           // 0: each connection does one operation
static uint32_t next, last, active; // connections still to begin, and operations under way
static uint64_t done, latest;
static uint32_t microseconds[1000001];

static void connect_to_proxy(struct connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("client: socket: %s", strerror(errno));
    set_nodelay(c->fd);
    if (connect(c->fd, (void *)&proxy, sizeof proxy) && errno != EINPROGRESS)
        fail("client: connect: %s", strerror(errno));
    begin_tls(c);
    // Out first: when the connection stands.
    c->wants_out = true;
    watch(EPOLL_CTL_ADD, c, EPOLLOUT);
}

static void say(struct connection *c, enum step due, const void *bytes, size_t length) {
    c->step = due;
    c->in_len = 0;
    c->out = bytes;
    c->out_left = length;
    if (!c->wants_out && !flush_out(c)) fail("connection %u: send: %s", c->number, strerror(errno));
}

static const uint8_t SESSION_END[] = {0x88, 0x82, 0x37, 0xfa, 0x21, 0x3d, 0x03 ^ 0x37, 0xe8 ^ 0xfa};

// Every message says whose it is and the how manieth: no other message's echo passes for it.
static void say_message(struct connection *c) {
    size_t head = message_size < 126 ? 6 : 8;
    uint8_t *frame = c->frame;
    frame[0] = 0x82;
    if (head == 6) frame[1] = 128 | message_size;
    else frame[1] = 128 | 126, frame[2] = message_size >> 8, frame[3] = message_size & 255;
    memcpy(frame + head - 4, MASK, 4);
    c->sequence++;
    uint32_t mask, stamp[2];
    memcpy(&mask, MASK, 4);
    stamp[0] = c->number ^ mask;
    stamp[1] = c->sequence ^ mask;
    memcpy(frame + head, stamp, 8);
    say(c, ECHO, frame, head + message_size);
}

static void prepare_message(struct connection *c) {
    if (!c->frame) c->frame = buffer();
    size_t head = message_size < 126 ? 6 : 8;
    for (size_t i = 8; i < message_size; i++) c->frame[head + i] = pattern[i] ^ MASK[i & 3];
}

static void finish(struct connection *c);

static void hang_up(struct connection *c) {
    end_tls(c);
    close(c->fd);
    c->fd = -1;
    finish(c);
}

static void begin(struct connection *c) {
    active++;
    c->begun = now_ns();
    if (!c->in) c->in = buffer();
    switch (job) {
    case OPEN:
    case HANDSHAKES:
        connect_to_proxy(c);
        say(c, HELLO, upgrade, strlen(upgrade));
        break;
    case ECHOES: say_message(c); break;
    case CLOSE: say(c, BYE, SESSION_END, sizeof SESSION_END); break;
    case GETS:
        if (c->fd < 0) connect_to_proxy(c);
        say(c, PAGE_DUE, GET, sizeof GET - 1);
        break;
    case STREAMS:
        connect_to_proxy(c);
        say(c, EVENT_DUE, EVENTS, sizeof EVENTS - 1);
        break;
    case LEAVE: hang_up(c); break;
    }
}

static void clock_in(struct connection *c) {
    uint64_t us = (now_ns() - c->begun) / 1000;
    microseconds[us < 1000000 ? us : 1000000]++;
}

static void finish(struct connection *c) {
    c->step = IDLE;
    active--;
    done++;
    latest = now_ns();
    if (deadline && latest < deadline) begin(c);
    else if (!deadline && next < last) begin(&connections[next++]);
}

static void check_echo(struct connection *c) {
    size_t head = message_size < 126 ? 2 : 4;
    if (c->in_len < head + message_size) return;
    if (c->in_len > head + message_size) fail("session %u: more than the echo", c->number);
    uint32_t stamp[2];
    memcpy(stamp, c->in + head, 8);
    bool right = c->in[0] == 0x82 && (head == 2 ? c->in[1] == message_size
                                                : c->in[1] == 126 && (size_t)(c->in[2] << 8 | c->in[3]) == message_size);
    if (!right || stamp[0] != c->number || stamp[1] != c->sequence ||
        memcmp(c->in + head + 8, pattern + 8, message_size - 8))
        fail("session %u: message %u came back as another", c->number, c->sequence);
    clock_in(c);
    finish(c);
}

static void check_handshake(struct connection *c) {
    size_t head = head_length(c->in, c->in_len);
    if (!head) return;
    char *text = (char *)c->in;
    text[head - 1] = 0;
    if (strncmp(text, "HTTP/1.1 101 ", 13) || !has_field(text, "\nSec-WebSocket-Accept:", ACCEPT))
        fail("session %u: no handshake: %.300s", c->number, text);
    if (head != c->in_len) fail("session %u: bytes behind the handshake", c->number);
    clock_in(c);
    if (job == HANDSHAKES) say(c, BYE, SESSION_END, sizeof SESSION_END);
    else finish(c);
}

static void check_page(struct connection *c) {
    size_t head = head_length(c->in, c->in_len), body = sizeof BODY - 1;
    if (!head || c->in_len < head + body) return;
    char *text = (char *)c->in;
    text[head - 1] = 0;
    if (strncmp(text, "HTTP/1.1 200 ", 13) || !has_field(text, "\nContent-Length:", "128"))
        fail("connection %u: no page: %.300s", c->number, text);
    if (c->in_len != head + body || memcmp(c->in + head, BODY, body))
        fail("connection %u: another page than the origin's", c->number);
    clock_in(c);
    finish(c);
}

static void check_event(struct connection *c) {
    size_t head = head_length(c->in, c->in_len), event = sizeof EVENT - 1;
    if (!head || !memmem(c->in + head, c->in_len - head, EVENT, event)) return;
    char *text = (char *)c->in, *body = text + head;
    text[head - 1] = 0;
    if (strncmp(text, "HTTP/1.1 200 ", 13) || !has_field(text, "\nContent-Type:", "text/event-stream"))
        fail("stream %u: no event stream: %.300s", c->number, text);
    // One chunk as the origin's, but for how its length is written; or no chunks.
    bool in_chunks = has_field(text, "\nTransfer-Encoding:", "chunked");
    if (in_chunks && (strtoul(body, &body, 16) != event || memcmp(body, "\r\n", 2)))
        fail("stream %u: another chunk than the origin's", c->number);
    body += in_chunks ? 2 : 0;
    size_t left = (char *)c->in + c->in_len - body, due = event + (in_chunks ? 2 : 0);
    if (left < due) return;
    if (left > due || memcmp(body, EVENT, event)) fail("stream %u: more than the event", c->number);
    clock_in(c);
    finish(c);
}

static void ended(struct connection *c) {
    if (c->step != BYE || c->in_len != sizeof CLOSE_1000 || memcmp(c->in, CLOSE_1000, sizeof CLOSE_1000))
        fail("connection %u: ended by the proxy in step %d after %zu bytes", c->number, c->step, c->in_len);
    hang_up(c);
}

static void handle(struct connection *c) {
    if (c->wants_out) {
        if (!flush_out(c)) fail("connection %u: %s", c->number, strerror(errno));
        return;
    }
    // By TLS it may be a ticket.
    if (c->step == IDLE && !c->tls) fail("connection %u: bytes, or the end, out of turn", c->number);
    if (c->in_len == BUFFER) fail("connection %u: an answer without end", c->number);
    ssize_t got = receive(c, c->in + c->in_len, BUFFER - c->in_len);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got < 0) fail("connection %u: recv in step %d: %s", c->number, c->step, strerror(errno));
    if (got == 0) {
        ended(c);
        return;
    }
    if (c->step == IDLE) fail("connection %u: bytes out of turn", c->number);
    c->in_len += got;
    switch (c->step) {
    case HELLO: check_handshake(c); break;
    case ECHO: check_echo(c); break;
    case PAGE_DUE: check_page(c); break;
    case EVENT_DUE: check_event(c); break;
    case BYE: break; // checked at the end of the stream
    case IDLE: break;
    }
}

static double percentile(double share) {
    uint64_t all = 0, below = 0;
    for (size_t us = 0; us <= 1000000; us++) all += microseconds[us];
    for (size_t us = 0; us <= 1000000; us++) {
        below += microseconds[us];
        if (below && below >= share * all) return us;
    }
    return 0;
}

// Does the job on the connections from `first` on, `at_once` at a time, and prints what came of it.
static void work(enum job what, uint32_t first, uint32_t count, uint32_t at_once, double seconds) {
    memset(microseconds, 0, sizeof microseconds);
    job = what;
    done = 0;
    next = first;
    last = first + count;
    uint64_t start = now_ns();
    latest = start;
    deadline = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : 0;
    while (next < last && next - first < at_once) begin(&connections[next++]);
    while (active) {
        struct epoll_event events[256];
        int ready = epoll_ready(events, 256, SILENCE_MS);
        if (!ready) fail("client: nothing came for %d s, %u operations are open", SILENCE_MS / 1000, active);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            do handle(c); while (has_more(c));
        }
    }
    printf("{\"ops\": %lu, \"seconds\": %.6f, \"p50_us\": %.0f, \"p99_us\": %.0f}\n",
           done, (latest - start) / 1e9, percentile(0.50), percentile(0.99));
}

static void add_connections(uint32_t count) {
    connections = calloc(count, sizeof *connections);
    if (!connections) fail("out of memory");
    for (uint32_t i = 0; i < count; i++) connections[i].number = i, connections[i].fd = -1;
}

static void set_message(size_t size) {
    if (size < 8 || size > LARGEST_MESSAGE) fail("client: a message of %zu bytes", size);
    message_size = size;
    for (uint32_t i = 0; i < sessions; i++) prepare_message(&connections[i]);
}

static void client(int port) {
    proxy.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    proxy.sin_port = htons(port);
    for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = i * 7 + (i >> 8);
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        unsigned count = 0;
        double seconds = 0;
        if (sscanf(line, "open %u", &count) == 1 && !sessions) {
            add_connections(count);
            work(OPEN, 0, count, AT_A_TIME, 0);
            sessions = count;
        } else if (sscanf(line, "echo %u %lf", &count, &seconds) == 2) {
            set_message(count);
            work(ECHOES, 0, sessions, sessions, seconds);
        } else if (sscanf(line, "once %u", &count) == 1) {
            set_message(count);
            work(ECHOES, 0, sessions, AT_A_TIME, 0);
        } else if (!strncmp(line, "close", 5)) {
            work(CLOSE, 0, sessions, AT_A_TIME, 0);
            sessions = 0;
        } else if (sscanf(line, "handshakes %u %lf", &count, &seconds) == 2) {
            add_connections(count);
            work(HANDSHAKES, 0, count, count, seconds);
        } else if (sscanf(line, "get %u %lf", &count, &seconds) == 2) {
            // The connections of a warm-up are the ones that are measured.
            if (!connections) add_connections(count);
            work(GETS, 0, count, count, seconds);
        } else if (sscanf(line, "stream %u", &count) == 1 && !sessions) {
            add_connections(count);
            work(STREAMS, 0, count, AT_A_TIME, 0);
            sessions = count;
        } else if (!strncmp(line, "leave", 5)) {
            work(LEAVE, 0, sessions, AT_A_TIME, 0);
            sessions = 0;
        } else {
            fail("client: what is %s", line);
        }
    }
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    poller = epoll_create1(0);
    const char *what = count > 1 ? arguments[1] : "", *transport = count == 4 ? arguments[3] : "";
    if (!strcmp(what, "origin") && (count == 2 || count == 4)) {
        if (count == 4) speak_tls_as_server(arguments[2], arguments[3]);
        origin(count == 4);
    } else if (!strcmp(what, "client") && (count == 3 || !strcmp(transport, "tls") || !strcmp(transport, "tls-tls"))) {
        if (*transport) speak_tls_as_client();
        if (!strcmp(transport, "tls-tls")) upgrade = UPGRADE("/tls/echo");
        client(atoi(arguments[2]));
    } else {
        fail("usage: load origin [CERTIFICATE KEY] | load client PORT [tls | tls-tls]");
    }
}
