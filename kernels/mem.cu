#include "kvb.cuh"
