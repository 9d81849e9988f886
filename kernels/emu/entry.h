// Ends every emulated source: the table of instances precedes it as `entries`.
#pragma once
extern "C" __attribute__((visibility("default")))
int kvb_emu_launch(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared_bytes, void** args) {
  for (const emu::Entry& entry : entries)
    if (!strcmp(entry.name, name)) return emu::launch({x, y, z}, threads, shared_bytes, [&] { entry.call(args); });
  return 2;
}

#ifdef KVB_EMU_MANGLED   // for fake_cuda.cpp: kernels by the names that NVRTC gives them
#include <dlfcn.h>
static const emu::Entry* by_mangled(const char* name) {
  for (const emu::Entry& entry : entries) {
    Dl_info info;
    if (dladdr(entry.address, &info) && info.dli_sname && !strcmp(info.dli_sname, name)) return &entry;
  }
  return nullptr;
}
extern "C" int kvb_emu_find(const char* name, unsigned char* sizes) {
  const emu::Entry* entry = by_mangled(name);
  if (entry) std::copy(entry->sizes.begin(), entry->sizes.end(), sizes);
  return entry ? (int)entry->sizes.size() : -1;
}
extern "C" int kvb_emu_launch_mangled(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared_bytes, void** args) {
  const emu::Entry* entry = by_mangled(name);
  return entry ? kvb_emu_launch(entry->name, x, y, z, threads, shared_bytes, args) : 2;
}
#endif
