// Ends every emulated source: the table of instances precedes it as `entries`.
#pragma once
extern "C" __attribute__((visibility("default")))
int kvb_emu_launch(const char* name, unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared_bytes, void** args) {
  for (const emu::Entry& entry : entries)
    if (!strcmp(entry.name, name)) return emu::launch({x, y, z}, threads, shared_bytes, [&] { entry.call(args); });
  return 2;
}
