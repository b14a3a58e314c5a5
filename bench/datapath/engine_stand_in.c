/* An engine that costs nothing: answers as an OpenAI-compatible server does, with words that mean nothing.
 *
 *   engine_stand_in --port PORT          on 127.0.0.1, for routers that speak TCP
 *   engine_stand_in serve MODEL --served-model-name NAME --uds PATH ...      as an agent starts `vllm serve`
 *
 * One thread, epoll, one write a token. How many tokens: "max_tokens"; streamed or not: "stream"; the time between two
 * tokens of a stream: "interval-us=N" anywhere in the body (default 0: all at once, streams taking turns), and before
 * the first, unless there is "first-at-once".
 * Only for measuring what stands in front of it: no argument is checked, and a malformed request ends the connection.
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
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES 65536
#define EVENTS_MAX 256

typedef struct Connection {
    int fd, gone, writing;
    char *in, *out;
    size_t in_size, in_capacity, out_size, out_capacity, out_sent;
    int streaming, queued, tokens_left, token, prompt_tokens, tells_usage, tells_usage_always;
    long long interval_ns, due_ns;
    unsigned long request;
    struct Connection *next;
} Connection;

static const char *model = "stand-in";
static unsigned long requests;
static int poller;
static Connection *first_due, *last_due; /* streams, in order of their next token: all share one interval in practice */

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void reserve(char **buffer, size_t *capacity, size_t needed) {
    if (needed <= *capacity) return;
    *capacity = needed * 2;
    *buffer = realloc(*buffer, *capacity);
    if (!*buffer) abort();
}

/* --- writing --- */

static void put(Connection *c, const char *bytes, size_t size) {
    reserve(&c->out, &c->out_capacity, c->out_size + size);
    memcpy(c->out + c->out_size, bytes, size);
    c->out_size += size;
}

static void watch(Connection *c, int writing) {
    if (c->writing == writing) return;
    struct epoll_event event = {writing ? EPOLLIN | EPOLLOUT : EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->writing = writing;
}

static void flush(Connection *c) {
    while (c->out_sent < c->out_size) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_size - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            watch(c, 1);
            return;
        }
        if (sent < 0) {
            c->gone = 1;
            return;
        }
        c->out_sent += (size_t)sent;
    }
    c->out_sent = c->out_size = 0;
    watch(c, 0);
}

static void put_chunk(Connection *c, const char *bytes, size_t size) {
    char length[20];
    put(c, length, (size_t)sprintf(length, "%zx\r\n", size));
    put(c, bytes, size);
    put(c, "\r\n", 2);
}

static void answer(Connection *c, const char *status, const char *type, const char *body, size_t size) {
    char head[256];
    put(c, head, (size_t)sprintf(head, "HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", status, type, size));
    put(c, body, size);
    flush(c);
}

/* --- streams --- */

static void enqueue(Connection *c) {
    c->next = NULL;
    c->queued = 1;
    if (last_due) last_due->next = c;
    else first_due = c;
    last_due = c;
}

static const char *usage_of(Connection *c) {
    static char usage[150];
    int prompt = c->prompt_tokens;
    sprintf(usage, "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0}}", prompt, prompt + c->token, c->token);
    return usage;
}

static void next_token(Connection *c) {
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    char event[768], usage[160] = "";
    int last = --c->tokens_left == 0;
    if (c->tells_usage_always) sprintf(usage, ",%s", usage_of(c));
    if (c->token == 0) put(c, HEAD, sizeof HEAD - 1);
    int size = snprintf(event, sizeof event,
        "data: {\"id\":\"chatcmpl-%016lx\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"%.64s\","
        "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\" word%d\"},\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n",
        c->request, model, c->token ? "" : "\"role\":\"assistant\",", c->token % 100, last ? "\"length\"" : "null",
        usage);
    put_chunk(c, event, (size_t)size);
    c->token++;
    if (last) {
        if (c->tells_usage) {
            size = snprintf(event, sizeof event, "data: {\"id\":\"chatcmpl-%016lx\",\"object\":\"chat.completion.chunk\","
                "\"created\":1700000000,\"model\":\"%.64s\",\"choices\":[],%s}\n\n", c->request, model, usage_of(c));
            put_chunk(c, event, (size_t)size);
        }
        put_chunk(c, "data: [DONE]\n\n", 14);
        put(c, "0\r\n\r\n", 5);
        c->streaming = 0;
    }
    flush(c);
}

/* --- requests --- */

static long number_after(const char *text, size_t size, const char *key, long otherwise) {
    const char *found = memmem(text, size, key, strlen(key));
    if (!found) return otherwise;
    for (found += strlen(key); *found == ' ' || *found == ':'; found++) {}
    return atol(found);
}

static void whole(Connection *c, long tokens) {
    char *body = malloc(600 + (size_t)tokens * 8);
    if (!body) abort();
    int size = sprintf(body,
        "{\"id\":\"chatcmpl-%016lx\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"%.64s\",\"choices\":"
        "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"", c->request, model);
    for (long i = 0; i < tokens; i++) size += sprintf(body + size, " word%ld", i % 100);
    size += sprintf(body + size, "\"},\"text\":\" word\",\"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":"
        "{\"prompt_tokens\":200,\"total_tokens\":%ld,\"completion_tokens\":%ld}}", 200 + tokens, tokens);
    answer(c, "200 OK", "application/json", body, (size_t)size);
    free(body);
}

static void complete(Connection *c, const char *body, size_t size) {
    long tokens = number_after(body, size, "\"max_tokens\"", 0);
    if (tokens < 1) tokens = number_after(body, size, "\"max_completion_tokens\"", 1);
    if (tokens < 1) tokens = 1;
    c->request = ++requests * 2654435761UL;
    int streams = memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14);
    if (!streams) {
        whole(c, tokens);
        return;
    }
    c->streaming = 1;
    c->tokens_left = (int)tokens;
    c->token = 0;
    c->prompt_tokens = (int)(size / 5) + 1;
    c->tells_usage_always = memmem(body, size, "continuous_usage_stats", 22) != NULL;
    c->tells_usage = memmem(body, size, "include_usage", 13) != NULL;
    c->interval_ns = number_after(body, size, "interval-us=", 0) * 1000LL;
    if (memmem(body, size, "first-at-once", 13)) {
        c->due_ns = now_ns();
        c->queued = 1;
        c->next = first_due;
        first_due = c;
        if (!last_due) last_due = c;
        return;
    }
    c->due_ns = now_ns() + c->interval_ns;
    enqueue(c);
}

static void page(Connection *c, const char *target) {
    char body[512];
    if (!strncmp(target, "/v1/models", 10)) {
        int size = sprintf(body, "{\"object\":\"list\",\"data\":[{\"id\":\"%.64s\",\"object\":\"model\",\"created\":1700000000,"
            "\"owned_by\":\"vllm\",\"root\":\"%.64s\",\"max_model_len\":8192}]}", model, model);
        answer(c, "200 OK", "application/json", body, (size_t)size);
    } else if (strstr(target, "_info ")) { /* /get_model_info, /server_info and the like */
        int size = sprintf(body, "{\"model_path\":\"%.64s\",\"served_model_name\":\"%.64s\",\"tokenizer_path\":\"%.64s\","
            "\"is_generation\":true,\"model_type\":\"llama\",\"dp_size\":1,\"tp_size\":1}", model, model, model);
        answer(c, "200 OK", "application/json", body, (size_t)size);
    } else if (!strncmp(target, "/metrics", 8)) {
        static const char METRICS[] = "vllm:cache_config_info{kv_cache_size_tokens=\"8000000\"} 1.0\n"
            "vllm:kv_cache_usage_perc{engine=\"0\"} 0.0\nvllm:num_requests_running 0\nvllm:num_requests_waiting 0\n";
        answer(c, "200 OK", "text/plain", METRICS, sizeof METRICS - 1);
    } else if (!strncmp(target, "/health", 7)) {
        answer(c, "200 OK", "text/plain", "", 0);
    } else if (!strncmp(target, "/version", 8)) {
        answer(c, "200 OK", "application/json", "{\"version\":\"0.32.0\"}", 20);
    } else {
        answer(c, "404 Not Found", "application/json", "{}", 2);
    }
}

/* The size of the first request in the buffer, 0 while it is incomplete. */
static size_t request_size(Connection *c, size_t *head_size, size_t *body_size) {
    char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
    if (!end) return 0;
    *head_size = (size_t)(end - c->in) + 4;
    *body_size = 0;
    int chunked = 0;
    for (char *line = c->in; line < end; line = (char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2) {
        if (!strncasecmp(line, "content-length:", 15)) *body_size = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) chunked = 1;
    }
    if (!chunked) return c->in_size < *head_size + *body_size ? 0 : *head_size + *body_size;
    char *last = memmem(c->in + *head_size, c->in_size - *head_size, "\r\n0\r\n\r\n", 7);
    if (!last) return 0;
    *body_size = (size_t)(last - c->in) - *head_size;
    return *head_size + *body_size + 7;
}

static void serve(Connection *c) {
    size_t head_size, body_size, size;
    while (!c->streaming && !c->gone && (size = request_size(c, &head_size, &body_size))) {
        char *body = c->in + head_size;
        char *space = memchr(c->in, ' ', head_size);
        char *target = space ? space + 1 : c->in;
        if (!strncmp(c->in, "POST", 4) && memmem(target, head_size > 100 ? 100 : head_size, "/completions ", 13))
            complete(c, body, body_size);
        else
            page(c, target);
        memmove(c->in, c->in + size, c->in_size - size);
        c->in_size -= size;
    }
}

/* --- connections --- */

static void forget(Connection *c) {
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on a Unix socket, which needs none */
        Connection *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void receive(Connection *c) {
    reserve(&c->in, &c->in_capacity, c->in_size + READ_BYTES + 1);
    ssize_t size = recv(c->fd, c->in + c->in_size, READ_BYTES, 0);
    if (size > 0) {
        c->in_size += (size_t)size;
        c->in[c->in_size] = 0;
        serve(c);
    } else if (size == 0 || errno != EAGAIN) {
        c->gone = 1;
    }
}

static void run_due(void) {
    Connection *stop = last_due;
    long long now = now_ns();
    while (first_due && first_due->due_ns <= now) {
        Connection *c = first_due;
        first_due = c->next;
        if (!first_due) last_due = NULL;
        c->queued = 0;
        if (!c->gone) next_token(c);
        if (c->gone) {
            forget(c);
        } else if (c->streaming) {
            c->due_ns += c->interval_ns;
            enqueue(c);
        } else {
            serve(c);
        }
        if (c == stop) break;
    }
}

static int listen_at(const char *path, int port) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    int on = 1, fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    inet_pton(AF_INET, "127.0.0.1", &inet.sin_addr);
    if (path) snprintf(local.sun_path, sizeof local.sun_path, "%s", path);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr *address = path ? (struct sockaddr *)&local : (struct sockaddr *)&inet;
    if (bind(fd, address, path ? sizeof local : sizeof inet) || listen(fd, 1024)) {
        perror("engine_stand_in: listen");
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments) {
    const char *path = NULL;
    int port = 0;
    for (int i = 1; i + 1 < count; i++) {
        if (!strcmp(arguments[i], "--uds")) path = arguments[i + 1];
        if (!strcmp(arguments[i], "--port")) port = atoi(arguments[i + 1]);
        if (!strcmp(arguments[i], "--served-model-name")) model = arguments[i + 1];
    }
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_at(path, port);
    struct epoll_event event = {EPOLLIN, {.ptr = NULL}}, events[EVENTS_MAX];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        long long wait_ns = first_due ? first_due->due_ns - now_ns() : 1000000000LL;
        if (wait_ns < 0) wait_ns = 0;
        struct timespec wait = {wait_ns / 1000000000LL, wait_ns % 1000000000LL};
        int ready = epoll_pwait2(poller, events, EVENTS_MAX, &wait, NULL);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
            if (c->gone && !c->queued) forget(c);
        }
        run_due();
    }
}
