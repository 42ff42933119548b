/* A container's output, as the CRI writes it: `2026-01-02T03:04:05.123456789Z stdout F text`. F ends a line, P continues it.
 *
 * DIR/log is bounded: past 10 MiB it becomes DIR/log.1, and the one before that goes. A full disk costs lines, never the container.
 */
#include "helper.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_LOG (10 * 1024 * 1024)

static int open_log(const char *directory, size_t *size) {
    char path[MAX_PATH];
    struct stat status;
    snprintf(path, sizeof path, "%.*s/log", MAX_PATH - 16, directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    *size = fd >= 0 && fstat(fd, &status) == 0 ? (size_t)status.st_size : 0;
    return fd;
}

bool log_open(struct log *log, const char *directory) {
    log->directory = directory;
    log->fd = open_log(directory, &log->size);
    return log->fd >= 0;
}

static void rotate(struct log *log) {
    char path[MAX_PATH], older[MAX_PATH];
    snprintf(path, sizeof path, "%.*s/log", MAX_PATH - 16, log->directory);
    snprintf(older, sizeof older, "%.*s/log.1", MAX_PATH - 16, log->directory);
    size_t size;
    if (rename(path, older) != 0) return;
    int fd = open_log(log->directory, &size);
    if (fd < 0) return; /* goes on in the renamed one */
    close(log->fd);
    log->fd = fd;
    log->size = size;
}

struct batch {
    char text[64 * 1024];
    size_t length;
    char time[48];
};

static void flush_batch(struct log *log, struct batch *batch) {
    if (batch->length == 0) return;
    if (log->size + batch->length > MAX_LOG) rotate(log);
    if (write_all(log->fd, batch->text, batch->length)) log->size += batch->length;
    batch->length = 0;
}

static void put_line(struct log *log, struct batch *batch, struct log_stream *stream, char tag) {
    if (batch->length + stream->length + 96 > sizeof batch->text) flush_batch(log, batch);
    batch->length += (size_t)sprintf(batch->text + batch->length, "%s %s %c ", batch->time, stream->name, tag);
    memcpy(batch->text + batch->length, stream->line, stream->length);
    batch->length += stream->length;
    batch->text[batch->length++] = '\n';
    stream->length = 0;
}

static void stamp(struct batch *batch) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(batch->time, sizeof batch->time, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(batch->time + length, sizeof batch->time - length, ".%09ldZ", now.tv_nsec);
}

bool log_read(struct log *log, struct log_stream *stream) {
    static char data[32 * 1024];
    static struct batch batch;
    ssize_t length = read(stream->fd, data, sizeof data);
    if (length < 0) return errno == EAGAIN || errno == EINTR;
    if (length == 0) return false;
    stamp(&batch);
    for (char *at = data, *end = data + length; at < end;) {
        char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t take = (size_t)((newline ? newline : end) - at);
        size_t room = sizeof stream->line - stream->length;
        if (take > room) { /* longer than a log line may be */
            memcpy(stream->line + stream->length, at, room);
            stream->length += room;
            at += room;
            put_line(log, &batch, stream, 'P');
            continue;
        }
        memcpy(stream->line + stream->length, at, take);
        stream->length += take;
        at += take;
        if (newline) {
            put_line(log, &batch, stream, 'F');
            at++;
        }
    }
    flush_batch(log, &batch);
    return true;
}

void log_finish(struct log *log, struct log_stream *stream) {
    static struct batch batch;
    if (stream->length == 0) return;
    stamp(&batch);
    put_line(log, &batch, stream, 'F');
    flush_batch(log, &batch);
}
