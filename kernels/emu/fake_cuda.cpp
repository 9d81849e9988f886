// A CUDA driver for tests: the few functions kvbench calls, on host memory, with launches run by emulated kernels. It
// lets the whole path from a scenario to a report be tested without a GPU. Built as libcuda.so.1 by tests/it/fake_gpu.rs;
// KVB_FAKE_KERNELS names the emulated sources (shared libraries, separated by ':').
//
// Times are the host's and mean nothing; the device says so in its name. KVB_FAKE_MEMORY limits device memory (bytes),
// KVB_FAKE_FAIL names a kernel (part of its mangled name) whose launches fail.
#include <dlfcn.h>
#include <time.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
typedef int (*Launcher)(const char*, unsigned, unsigned, unsigned, unsigned, size_t, void**);
typedef int (*Finder)(const char*, unsigned char*);   // sizes of the arguments, -1 when unknown

namespace {
struct Kernel { std::string name; Launcher launch; std::vector<unsigned char> sizes; };
struct Call { Kernel* kernel; unsigned x, y, z, threads; size_t shared; std::vector<uint64_t> args; };
struct Event { int64_t ns = 0; };
std::mutex lock;
std::map<CUdeviceptr, size_t> blocks;
std::vector<Call>* capturing = nullptr;
size_t used = 0;

size_t limit() { const char* text = getenv("KVB_FAKE_MEMORY"); return text ? strtoull(text, nullptr, 10) : size_t(2) << 30; }
int64_t now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec; }
CUresult run(const Call& call) {
  const char* fail = getenv("KVB_FAKE_FAIL");
  if (fail && *fail && call.kernel->name.find(fail) != std::string::npos) return LAUNCH_FAILED;
  std::vector<uint64_t> slots = call.args; std::vector<void*> places;
  for (auto& slot : slots) places.push_back(&slot);
  return call.kernel->launch(call.kernel->name.c_str(), call.x, call.y, call.z, call.threads, call.shared, places.data()) ? LAUNCH_FAILED : SUCCESS;
}
}  // namespace

extern "C" {
CUresult cuInit(unsigned) { return SUCCESS; }
// NVRTC asks the driver for private tables; this one says that it holds nothing but its own size.
CUresult cuGetExportTable(const void** table, const void*) { static const size_t empty[1] = {sizeof(size_t)}; *table = empty; return SUCCESS; }
CUresult cuDriverGetVersion(int* version) { *version = 13000; return SUCCESS; }
CUresult cuDeviceGetCount(int* n) { *n = 1; return SUCCESS; }
CUresult cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal == 0 ? SUCCESS : INVALID_VALUE; }
CUresult cuDeviceGetName(char* name, int len, int) { snprintf(name, (size_t)len, "emulated GPU (times mean nothing)"); return SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = limit(); return SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 13: *value = 1830000; break;        // clock rate, kHz
    case 16: *value = 2; break;              // multiprocessors
    case 38: *value = 65536; break;          // L2
    case 75: *value = 9; break;              // compute capability
    case 76: *value = 0; break;
    case 81: *value = 228 << 10; break;      // shared memory of a multiprocessor
    case 97: *value = 227 << 10; break;      // shared memory of a block, opted in
    default: *value = 0;
  }
  return SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUresult cuCtxSetCurrent(void* context) { return context ? SUCCESS : INVALID_VALUE; }
CUresult cuStreamCreate(void** stream, unsigned) { *stream = (void*)2; return SUCCESS; }
CUresult cuStreamSynchronize(void*) { return capturing ? INVALID_VALUE : SUCCESS; }
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) { *total = limit(); *free = limit() - used; return SUCCESS; }
CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  if (used + bytes > limit()) return OUT_OF_MEMORY;
  void* memory = aligned_alloc(256, (bytes + 511) / 256 * 256);
  *at = (CUdeviceptr)memory; blocks[*at] = bytes; used += bytes;
  return SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr at) {
  std::lock_guard<std::mutex> hold(lock);
  auto found = blocks.find(at);
  if (found == blocks.end()) return INVALID_VALUE;
  used -= found->second; free((void*)at); blocks.erase(found);
  return SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void*) { memcpy((void*)to, from, bytes); return SUCCESS; }
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { memcpy(to, (const void*)from, bytes); return SUCCESS; }
CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char byte, size_t bytes, void*) { memset((void*)at, byte, bytes); return SUCCESS; }

CUresult cuModuleLoadData(void** module, const void* image) {
  if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_VALUE;   // machine code is an ELF file
  *module = (void*)3;
  return SUCCESS;
}
CUresult cuModuleGetFunction(void** function, void*, const char* name) {
  const char* libraries = getenv("KVB_FAKE_KERNELS");
  std::stringstream list(libraries ? libraries : ""); std::string path;
  while (std::getline(list, path, ':')) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "fake CUDA: %s\n", dlerror()); continue; }
    Finder find = (Finder)dlsym(library, "kvb_emu_find"); unsigned char sizes[64]; int n = find ? find(name, sizes) : -1;
    if (n < 0) continue;
    *function = new Kernel{name, (Launcher)dlsym(library, "kvb_emu_launch_mangled"), {sizes, sizes + n}};
    return SUCCESS;
  }
  return NOT_FOUND;
}
CUresult cuFuncSetAttribute(void*, int, int) { return SUCCESS; }
CUresult cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        void*, void** args, void**) {
  if (!x || !y || !z || y > 65535 || z > 65535 || bx > 1024 || by != 1 || bz != 1 || shared > (227u << 10)) return INVALID_VALUE;
  Kernel* kernel = (Kernel*)function; Call call{kernel, x, y, z, bx, shared, {}};
  for (size_t i = 0; i < kernel->sizes.size(); ++i) { uint64_t slot = 0; memcpy(&slot, args[i], kernel->sizes[i]); call.args.push_back(slot); }
  if (capturing) { capturing->push_back(call); return SUCCESS; }
  return run(call);
}
CUresult cuStreamBeginCapture_v2(void*, int) { capturing = new std::vector<Call>; return SUCCESS; }
CUresult cuStreamEndCapture(void*, void** graph) { *graph = capturing; capturing = nullptr; return SUCCESS; }
CUresult cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) { *exec = new std::vector<Call>(*(std::vector<Call>*)graph); return SUCCESS; }
CUresult cuGraphUpload(void*, void*) { return SUCCESS; }
CUresult cuGraphDestroy(void* graph) { delete (std::vector<Call>*)graph; return SUCCESS; }
CUresult cuGraphExecDestroy(void* graph) { delete (std::vector<Call>*)graph; return SUCCESS; }
CUresult cuGraphLaunch(void* graph, void*) {
  for (const Call& call : *(std::vector<Call>*)graph) if (CUresult status = run(call)) return status;
  return SUCCESS;
}
CUresult cuEventCreate(void** event, unsigned flags) { *event = new Event; return flags & 2 ? INVALID_VALUE : SUCCESS; }  // 2: without timing
CUresult cuEventRecord(void* event, void*) { ((Event*)event)->ns = now(); return SUCCESS; }
CUresult cuEventSynchronize(void*) { return SUCCESS; }
CUresult cuEventElapsedTime(float* ms, void* start, void* end) { *ms = (float)((((Event*)end)->ns - ((Event*)start)->ns) / 1e6); return SUCCESS; }
CUresult cuGetErrorString(CUresult, const char** text) { *text = "fake CUDA error"; return SUCCESS; }
CUresult cuGetErrorName(CUresult, const char** text) { *text = "fake CUDA error"; return SUCCESS; }
}
