#include "threads.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace sgrt {
namespace {

constexpr int kMaxThreads = 256;
constexpr uint32_t kClosed = 0xffffffffu;  // no task index is this large
constexpr int kSpins = 2000;               // tens of microseconds: the gap between two layers
constexpr int kYields = 4;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

uint64_t pack(uint32_t epoch, uint32_t next) { return (uint64_t(epoch) << 32) | next; }
uint32_t epoch_of(uint64_t ticket) { return uint32_t(ticket >> 32); }
uint32_t next_of(uint64_t ticket) { return uint32_t(ticket); }

class Pool {
  public:
    void run(int64_t num_tasks, int helpers, TaskFn fn, void* context);
    std::mutex owner;  // held by the caller whose loop is running

  private:
    // A task is claimed by advancing `ticket_` (epoch, next task). Between loops the ticket is
    // closed, and closed before the job's fields change: whoever advances it read that job.
    bool claim(TaskFn* fn, void** context, uint32_t* task);
    void work();
    void helper(int index);
    void grow(int helpers);
    void wake();
    void wait_done(uint32_t num_tasks);

    std::atomic<uint64_t> ticket_{pack(0, kClosed)};
    std::atomic<TaskFn> fn_{nullptr};
    std::atomic<void*> context_{nullptr};
    std::atomic<uint32_t> num_tasks_{0};
    std::atomic<int> helpers_wanted_{0};
    std::atomic<uint32_t> done_{0};
    std::atomic<int> sleepers_{0};
    std::mutex sleep_mutex_;
    std::condition_variable sleep_;
    int started_ = 0;
};

bool Pool::claim(TaskFn* fn, void** context, uint32_t* task) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
        const uint32_t count = num_tasks_.load(std::memory_order_acquire);
        if (next_of(ticket) >= count) return false;
        *fn = fn_.load(std::memory_order_acquire);
        *context = context_.load(std::memory_order_acquire);
        *task = next_of(ticket);
        if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) return true;
    }
}

void Pool::work() {
    TaskFn fn;
    void* context;
    uint32_t task;
    while (claim(&fn, &context, &task)) {
        fn(context, task);
        done_.fetch_add(1, std::memory_order_acq_rel);
    }
}

void Pool::helper(int index) {
    uint32_t seen = 0;
    for (;;) {
        int spins = 0;
        while (epoch_of(ticket_.load(std::memory_order_acquire)) == seen) {
            if (++spins < kSpins) {
                relax();
            } else if (spins < kSpins + kYields) {
                std::this_thread::yield();
            } else {
                std::unique_lock<std::mutex> lock(sleep_mutex_);
                sleepers_.fetch_add(1);
                sleep_.wait(lock, [&] { return epoch_of(ticket_.load()) != seen; });
                sleepers_.fetch_sub(1);
            }
        }
        seen = epoch_of(ticket_.load(std::memory_order_acquire));
        if (index < helpers_wanted_.load(std::memory_order_acquire)) work();
    }
}

void Pool::grow(int helpers) {
    try {
        for (; started_ < helpers; ++started_) {
            std::thread([this, index = started_] { helper(index); }).detach();
        }
    } catch (const std::system_error&) {
        // No more threads to be had: the caller does the work that they would have done.
    }
}

void Pool::wake() {
    if (sleepers_.load() == 0) return;
    { std::lock_guard<std::mutex> lock(sleep_mutex_); }
    sleep_.notify_all();
}

void Pool::wait_done(uint32_t num_tasks) {
    for (int spins = 0; done_.load(std::memory_order_acquire) != num_tasks; ++spins) {
        if (spins < kSpins) {
            relax();
        } else {
            std::this_thread::yield();
        }
    }
}

void Pool::run(int64_t num_tasks, int helpers, TaskFn fn, void* context) {
    grow(helpers);
    const uint32_t epoch = epoch_of(ticket_.load()) + 1;
    ticket_.store(pack(epoch - 1, kClosed));
    fn_.store(fn);
    context_.store(context);
    helpers_wanted_.store(helpers);
    done_.store(0);
    num_tasks_.store(uint32_t(num_tasks));
    ticket_.store(pack(epoch, 0));
    wake();
    work();
    wait_done(uint32_t(num_tasks));
}

std::atomic<int> g_num_threads{1};
std::atomic<Pool*> g_pool{nullptr};
thread_local bool t_inside = false;  // a task that starts a loop runs it inline

// Helpers do not survive a fork, and their locks may be held for ever: forget the pool.
void forget_pool() { g_pool.store(nullptr); }

Pool* pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
    Pool* p = g_pool.load(std::memory_order_acquire);
    if (p != nullptr) return p;
    Pool* fresh = new Pool();  // never freed: its helpers run until the process ends
    if (g_pool.compare_exchange_strong(p, fresh)) return fresh;
    delete fresh;
    return p;
}

void run_inline(int64_t num_tasks, TaskFn fn, void* context) {
    for (int64_t task = 0; task < num_tasks; ++task) fn(context, task);
}

}  // namespace

void set_num_threads(int n) { g_num_threads.store(n < 1 ? 1 : (n > kMaxThreads ? kMaxThreads : n)); }

int num_threads() { return g_num_threads.load(std::memory_order_relaxed); }

void parallel_run(int64_t num_tasks, TaskFn fn, void* context) {
    const int threads = num_threads();
    if (threads == 1 || num_tasks <= 1 || num_tasks >= int64_t(kClosed) || t_inside) {
        run_inline(num_tasks, fn, context);
        return;
    }
    Pool* p = pool();
    std::unique_lock<std::mutex> owner(p->owner, std::try_to_lock);
    if (!owner.owns_lock()) {
        run_inline(num_tasks, fn, context);
        return;
    }
    t_inside = true;
    const int64_t useful = num_tasks < threads ? num_tasks : threads;
    p->run(num_tasks, int(useful) - 1, fn, context);
    t_inside = false;
}

}  // namespace sgrt
