/* A closed loop of HTTP clients that cost next to nothing: each connection asks again when its answer is complete.
 *
 *   load_generator PORT CONNECTIONS SECONDS WARM_UP_SECONDS BODY_FILE PATH SEED
 *
 * "@@@@@@@@" in the body becomes eight new random digits for each request. After the warm-up it prints "begin", after
 * the measured seconds one JSON line: what was completed between the two, times in microseconds. An answer counts as
 * failed unless its status is 200, it ends by its framing and, if it is an event stream, with [DONE].
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES_MAX 16384
#define MARKS_MAX 64
#define MARK "@@@@@@@@"
#define READ_BYTES 131072

enum Part { HEAD, LENGTH_BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

typedef struct {
    int fd, status, streams, ended_well;
    enum Part part;
    char head[HEAD_BYTES_MAX + 1];
    size_t head_size, left;
    int token_match, done_match; /* how much of each pattern the bytes before have matched */
    long long asked_ns, first_ns;
    char *request;
} Client;

static int poller, port, measuring;
static char *template;
static size_t template_size, marks[MARKS_MAX], mark_count;
static unsigned long long random_state;
static unsigned long tokens, failed, reconnected;
static long long *totals, *firsts;
static size_t completed, capacity;

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static unsigned long long next_random(void) { /* xorshift64 (Marsaglia, 2003) */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void dial(Client *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int on = 1;
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        perror("load_generator: connect");
        exit(1);
    }
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void ask(Client *c) {
    for (size_t i = 0; i < mark_count; i++) {
        char digits[9];
        snprintf(digits, sizeof digits, "%08llu", next_random() % 100000000ULL);
        memcpy(c->request + marks[i], digits, 8);
    }
    c->part = HEAD;
    c->head_size = c->left = 0;
    c->token_match = c->done_match = c->ended_well = 0;
    c->first_ns = 0;
    c->asked_ns = now_ns();
    for (size_t sent = 0; sent < template_size;) {
        ssize_t size = send(c->fd, c->request + sent, template_size - sent, MSG_NOSIGNAL);
        if (size > 0) {
            sent += (size_t)size;
            continue;
        }
        close(c->fd); /* an idle connection that the server closed */
        reconnected++;
        dial(c);
        sent = 0;
    }
}

static void complete(Client *c) {
    int well = c->status == 200 && (!c->streams || c->ended_well);
    if (!well && !failed++) fprintf(stderr, "first failed answer: %.400s\n", c->head);
    if (measuring && well) {
        if (completed == capacity) {
            capacity = capacity * 2 + 65536;
            totals = realloc(totals, capacity * sizeof *totals);
            firsts = realloc(firsts, capacity * sizeof *firsts);
            if (!totals || !firsts) abort();
        }
        long long now = now_ns();
        totals[completed] = now - c->asked_ns;
        firsts[completed++] = (c->first_ns ? c->first_ns : now) - c->asked_ns;
    }
    ask(c);
}

/* Every pattern begins with 'd', which does not occur again within its first four bytes. */
static int advance(const char *pattern, int matched, char byte) {
    if (byte == pattern[matched]) return matched + 1;
    return byte == pattern[0];
}

static void body(Client *c, const char *bytes, size_t size) {
    static const char TOKEN[] = "data: {", DONE[] = "data: [DONE]";
    if (size && !c->first_ns) c->first_ns = now_ns();
    if (!c->streams) return;
    for (size_t i = 0; i < size; i++) {
        c->token_match = advance(TOKEN, c->token_match, bytes[i]);
        if (!TOKEN[c->token_match]) {
            tokens += (unsigned long)measuring;
            c->token_match = 0;
        }
        c->done_match = advance(DONE, c->done_match, bytes[i]);
        if (!DONE[c->done_match]) {
            c->ended_well = 1;
            c->done_match = 0;
        }
    }
}

/* Takes what it can of the head; returns how many of the bytes belong to it. */
static size_t head(Client *c, const char *bytes, size_t size) {
    size_t before = c->head_size, taken = size < HEAD_BYTES_MAX - before ? size : HEAD_BYTES_MAX - before;
    memcpy(c->head + before, bytes, taken);
    c->head_size += taken;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return taken;
    c->status = atoi(c->head + 9);
    c->streams = strcasestr(c->head, "content-type: text/event-stream") != NULL;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
        c->part = CHUNK_SIZE;
        c->left = 0;
    } else {
        c->part = LENGTH_BODY;
        c->left = length ? strtoul(length + 17, NULL, 10) : 0;
    }
    return (size_t)(end + 4 - c->head) - before;
}

static size_t piece(Client *c, const char *bytes, size_t size) {
    size_t taken = size < c->left ? size : c->left;
    body(c, bytes, taken);
    c->left -= taken;
    return taken;
}

static void chunk_size(Client *c, char byte) {
    if (byte == '\n') c->part = c->left ? CHUNK_DATA : TRAILER;
    else if (byte != '\r') c->left = c->left * 16 + (size_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
}

/* One answer at most is under way on a connection, so bytes beyond it are a fault and dropped. */
static void receive(Client *c, const char *bytes, size_t size) {
    for (size_t at = 0; at < size;) {
        switch (c->part) {
        case HEAD:
            at += head(c, bytes + at, size - at);
            if (c->part == LENGTH_BODY && !c->left) {
                complete(c);
                return;
            }
            break;
        case LENGTH_BODY:
            at += piece(c, bytes + at, size - at);
            if (!c->left) {
                complete(c);
                return;
            }
            break;
        case CHUNK_SIZE:
            chunk_size(c, bytes[at++]);
            break;
        case CHUNK_DATA:
            at += piece(c, bytes + at, size - at);
            if (!c->left) c->part = CHUNK_END;
            break;
        case CHUNK_END:
            if (bytes[at++] == '\n') c->part = CHUNK_SIZE;
            break;
        case TRAILER: /* no trailer fields are sent here: the next line is the empty one */
            if (bytes[at++] == '\n') {
                complete(c);
                return;
            }
        }
    }
}

static void lost(Client *c) {
    if (!c->head_size) reconnected++;
    else if (!failed++) fprintf(stderr, "first broken answer: %.400s\n", c->head);
    close(c->fd);
    dial(c);
    ask(c);
}

static void read_template(const char *file_name, const char *path) {
    static char content[1 << 20];
    FILE *file = fopen(file_name, "rb");
    if (!file) {
        perror(file_name);
        exit(1);
    }
    size_t size = fread(content, 1, sizeof content - 1, file);
    fclose(file);
    int head_size = asprintf(&template,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAuthorization: Bearer bench\r\n"
        "Accept: */*\r\nContent-Length: %zu\r\n\r\n%s", path, port, size, content);
    if (head_size < 0) abort();
    template_size = (size_t)head_size;
    for (char *mark = template; (mark = strstr(mark, MARK)) && mark_count < MARKS_MAX; mark += 8)
        marks[mark_count++] = (size_t)(mark - template);
}

static int by_size(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

static double at_share(const long long *times, double share) {
    return completed ? (double)times[(size_t)((double)(completed - 1) * share)] / 1000.0 : 0.0;
}

static void report(double seconds) {
    qsort(totals, completed, sizeof *totals, by_size);
    qsort(firsts, completed, sizeof *firsts, by_size);
    printf("{\"seconds\":%.3f,\"completed\":%zu,\"tokens\":%lu,\"failed\":%lu,\"reconnected\":%lu,"
        "\"first_p50_us\":%.1f,\"first_p99_us\":%.1f,\"total_p50_us\":%.1f,\"total_p99_us\":%.1f}\n",
        seconds, completed, tokens, failed, reconnected,
        at_share(firsts, .5), at_share(firsts, .99), at_share(totals, .5), at_share(totals, .99));
}

int main(int count, char **arguments) {
    if (count != 8) {
        fprintf(stderr, "usage: load_generator PORT CONNECTIONS SECONDS WARM_UP_SECONDS BODY_FILE PATH SEED\n");
        return 64;
    }
    port = atoi(arguments[1]);
    int connections = atoi(arguments[2]);
    double seconds = atof(arguments[3]), warm_up_s = atof(arguments[4]);
    random_state = 88172645463325252ULL ^ (strtoull(arguments[7], NULL, 10) * 0x9E3779B97F4A7C15ULL);
    signal(SIGPIPE, SIG_IGN);
    read_template(arguments[5], arguments[6]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    Client *clients = calloc((size_t)connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        clients[i].request = strdup(template);
        dial(&clients[i]);
        ask(&clients[i]);
    }
    static char bytes[READ_BYTES];
    struct epoll_event events[256];
    long long begin_ns = now_ns() + (long long)(warm_up_s * 1e9), end_ns = begin_ns + (long long)(seconds * 1e9);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, 20);
        long long now = now_ns();
        if (now >= end_ns) break;
        if (!measuring && now >= begin_ns) {
            measuring = 1;
            begin_ns = now;
            puts("begin");
            fflush(stdout);
        }
        for (int i = 0; i < ready; i++) {
            Client *c = events[i].data.ptr;
            ssize_t size = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
            if (size > 0) receive(c, bytes, (size_t)size);
            else if (size == 0 || errno != EAGAIN) lost(c);
        }
    }
    report((double)(now_ns() - begin_ns) / 1e9);
    return 0;
}
