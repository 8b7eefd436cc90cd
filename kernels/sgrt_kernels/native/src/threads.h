// A small thread pool for short parallel loops.
//
// The calling thread takes part; helpers spin briefly between loops, then sleep. Tasks are handed
// out one by one through an atomic counter, so a helper that the system does not schedule delays
// nobody. With one thread, with one task, or when another caller holds the pool, the loop runs
// inline. After a fork the child starts helpers of its own.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sgrt {

// Threads that later loops may use, the caller included; at least 1.
void set_num_threads(int n);
int num_threads();

using TaskFn = void (*)(void* context, int64_t task);
void parallel_run(int64_t num_tasks, TaskFn fn, void* context);

// Calls fn(task) for every task in [0, num_tasks), in any order, on any thread of the pool.
template <class Fn>
void parallel_for(int64_t num_tasks, Fn&& fn) {
    using F = std::remove_reference_t<Fn>;
    parallel_run(
        num_tasks, [](void* context, int64_t task) { (*static_cast<F*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace sgrt
