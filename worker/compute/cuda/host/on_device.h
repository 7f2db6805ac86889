// Runs the same checks on a GPU: `check.cpp` built with -DON_DEVICE takes a compiled image of the kernels, and all its
// memory is managed, so that what a check allocates is what a kernel reads. The driver is loaded when the check begins.
#pragma once
#include <dlfcn.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

namespace on_device {

// The few calls of the driver that are needed, by their names in its library.
struct Driver {
    int (*cuInit)(unsigned);
    int (*cuDeviceGet)(int*, int);
    int (*cuDeviceGetName)(char*, int, int);
    int (*cuDeviceGetAttribute)(int*, int, int);
    int (*cuDevicePrimaryCtxRetain)(void**, int);
    int (*cuCtxSetCurrent)(void*);
    int (*cuModuleLoadData)(void**, const void*);
    int (*cuModuleGetFunction)(void**, void*, const char*);
    int (*cuFuncSetAttribute)(void*, int, int);
    int (*cuMemAllocManaged)(unsigned long long*, size_t, unsigned);
    int (*cuLaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
    int (*cuCtxSynchronize)();
    void* module = nullptr;
    int shared_max = 0;
    bool is_ready = false;
};

inline Driver& driver() {
    static Driver driver;
    return driver;
}

inline void must(int code, const char* call) {
    if (code == 0) return;
    fprintf(stderr, "%s failed with %d\n", call, code);
    exit(1);
}

// Opens the first device with the image of that file.
inline void open(const char* image) {
    Driver& own = driver();
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) must(1, dlerror());
    const auto find = [library](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
        if (!function) must(1, name);
    };
    find(own.cuInit, "cuInit");
    find(own.cuDeviceGet, "cuDeviceGet");
    find(own.cuDeviceGetName, "cuDeviceGetName");
    find(own.cuDeviceGetAttribute, "cuDeviceGetAttribute");
    find(own.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    find(own.cuCtxSetCurrent, "cuCtxSetCurrent");
    find(own.cuModuleLoadData, "cuModuleLoadData");
    find(own.cuModuleGetFunction, "cuModuleGetFunction");
    find(own.cuFuncSetAttribute, "cuFuncSetAttribute");
    find(own.cuMemAllocManaged, "cuMemAllocManaged");
    find(own.cuLaunchKernel, "cuLaunchKernel");
    find(own.cuCtxSynchronize, "cuCtxSynchronize");
    int device = 0;
    void* context = nullptr;
    char name[128] = "";
    must(own.cuInit(0), "cuInit");
    must(own.cuDeviceGet(&device, 0), "cuDeviceGet");
    must(own.cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName");
    // The most that a block may share if it asks.
    must(own.cuDeviceGetAttribute(&own.shared_max, 97, device), "cuDeviceGetAttribute");
    must(own.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    must(own.cuCtxSetCurrent(context), "cuCtxSetCurrent");
    std::ifstream file(image, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    must(bytes.empty(), image);
    must(own.cuModuleLoadData(&own.module, bytes.data()), "cuModuleLoadData");
    own.is_ready = true;
    printf("on %s\n", name);
}

// Queues a kernel and waits for it.
inline void launch(const char* name, host::Index grid, u32 threads, size_t shared, const void* argument) {
    Driver& own = driver();
    void* function = nullptr;
    must(own.cuModuleGetFunction(&function, own.module, name), name);
    // The most dynamic shared memory.
    must(own.cuFuncSetAttribute(function, 8, own.shared_max), "cuFuncSetAttribute");
    void* arguments[] = {const_cast<void*>(argument)};
    must(own.cuLaunchKernel(function, grid.x, grid.y, grid.z, threads, 1, 1, static_cast<unsigned>(shared), nullptr, arguments, nullptr), name);
    must(own.cuCtxSynchronize(), name);
}

// Where an allocation's kind is noted, and still aligned for any load.
constexpr size_t HEAD = 256;

inline void* allocate(size_t bytes) {
    unsigned long long at = 0;
    if (driver().is_ready) {
        must(driver().cuMemAllocManaged(&at, bytes + HEAD, 1), "cuMemAllocManaged");
    } else {
        at = reinterpret_cast<unsigned long long>(aligned_alloc(HEAD, (bytes + 2 * HEAD - 1) / HEAD * HEAD));
    }
    return reinterpret_cast<void*>(at + HEAD);
}

}  // namespace on_device

// A check lives for a minute: nothing is given back.
void* operator new(size_t bytes) { return on_device::allocate(bytes); }
void* operator new[](size_t bytes) { return on_device::allocate(bytes); }
void operator delete(void*) noexcept {}
void operator delete[](void*) noexcept {}
void operator delete(void*, size_t) noexcept {}
void operator delete[](void*, size_t) noexcept {}
