// Time std::sort, five times.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

int main() {
    FILE *out = popen("bai-emit", "w");
    if (!out) return 1;
    std::mt19937 random(1);
    for (int run = 1; run <= 5; run++) {
        std::vector<unsigned> numbers(1000000);
        std::generate(numbers.begin(), numbers.end(), std::ref(random));
        auto start = std::chrono::steady_clock::now();
        std::sort(numbers.begin(), numbers.end());
        std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        fprintf(out, "sort.seconds=%.17g\n", seconds.count());
        fflush(out);
    }
    return pclose(out) != 0;  // 0: everything was published
}
