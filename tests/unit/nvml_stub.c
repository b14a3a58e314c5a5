/* A stand-in for NVIDIA's driver library, with what the tests need of its C interface (nvml.h). The environment says
 * how it behaves: NVML_STUB = ok | lost | no_driver | unified | bare. Built by test_gpus.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INSUFFICIENT_SIZE = 7, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int instance, compute; } process_t;

static int is(const char *mode) {
    const char *set = getenv("NVML_STUB");
    return set != NULL && strcmp(set, mode) == 0;
}

int nvmlInit_v2(void) { return is("no_driver") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stub error"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return SUCCESS; }

static unsigned int indices[2] = {0, 1};

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if (index == 1 && is("lost")) return GPU_IS_LOST;
    *device = &indices[index];
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    snprintf(name, length, "Stub GPU %u", *(unsigned int *)device);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
    snprintf(uuid, length, "GPU-stub-%u", *(unsigned int *)device);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    (void)device;
    if (is("unified")) return NOT_SUPPORTED;
    memory->total = 24ULL << 30;
    memory->free = 20ULL << 30;
    memory->used = 4ULL << 30;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    (void)device;
    if (is("bare")) return NOT_SUPPORTED;
    rates->gpu = 37;
    rates->memory = 5;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    (void)device;
    if (is("bare")) return NOT_SUPPORTED;
    *milliwatts = 123456;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *degrees) {
    (void)device; (void)sensor;
    if (is("bare")) return NOT_SUPPORTED;
    *degrees = 61;
    return SUCCESS;
}

/* Process 4242 computes, 4242 and 4343 draw. */
static int processes(unsigned int *count, process_t *infos, const unsigned int *pids, unsigned int have) {
    if (is("bare")) return NOT_SUPPORTED;
    if (*count < have) { *count = have; return INSUFFICIENT_SIZE; }
    memset(infos, 0, have * sizeof *infos);
    for (unsigned int i = 0; i < have; i++) infos[i].pid = pids[i];
    *count = have;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process_t *infos) {
    static const unsigned int pids[] = {4242};
    (void)device;
    return processes(count, infos, pids, 1);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *count, process_t *infos) {
    static const unsigned int pids[] = {4242, 4343};
    (void)device;
    return processes(count, infos, pids, 2);
}
