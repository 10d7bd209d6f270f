// What the bodies of MLX's GPU kernels ask of C++: the threads of a group are threads, its shared
// arrays static. `real` may be double, in which rounding hides no error.
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

class Meeting {
 public:
  void begin(int count) { count_ = waiting_ = count; }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const long round = round_;
    if (--waiting_ == 0) {
      waiting_ = count_;
      ++round_;
      all_.notify_all();
    } else {
      all_.wait(lock, [&] { return round != round_; });
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  int count_ = 0, waiting_ = 0;
  long round_ = 0;
};

static Meeting meeting;

template <class Work>
void on_threads(int threads, int groups, Work work) {
  meeting.begin(threads);
  std::vector<std::thread> started;
  for (int place = 0; place < threads; ++place)
    started.emplace_back([=] {
      for (int sequence = 0; sequence < groups; ++sequence) {
        work(place, sequence);
        meeting.wait();
      }
    });
  for (std::thread& one : started) one.join();
}

#define float real
#define FWT_FUNCTION inline
#define FWT_DEVICE
#define FWT_SHARED static
#define FWT_SHARED_POINTER
#define FWT_BARRIER meeting.wait()
#define FWT_RSQRT(x) (1 / std::sqrt(x))
