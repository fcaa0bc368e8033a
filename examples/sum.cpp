#include <benchmark/benchmark.h>

static void Sum(benchmark::State &state) {
    for (auto _ : state)
        for (int i = 0, sum = 0; i < 1000; i++) benchmark::DoNotOptimize(sum += i);
}
BENCHMARK(Sum);
BENCHMARK_MAIN();
