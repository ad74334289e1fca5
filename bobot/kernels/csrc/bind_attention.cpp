#include "bind_attention.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "attention_plan.h"
#include "team.h"
#include "weight.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

using Heads = nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>;
using OutHeads = nb::ndarray<nb::ndim<3>, nb::device::cpu>;
using Spans = nb::ndarray<const std::int64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sinks = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Hidden = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::int64_t kMost = std::int64_t{1} << 40;  // sums and products of such do not overflow

template <class Bytes, class Array>
HeadArray<Bytes> heads_of(const Array& array, std::size_t num_heads, std::size_t size,
                          const std::string& name) {
    require(array.shape(1) == num_heads && array.shape(2) == size,
            name + " does not have " + std::to_string(num_heads) + " heads of " +
                std::to_string(size) + " numbers");
    require(size == 1 || array.stride(2) == 1, "the numbers of a head of " + name +
                                                   " do not lie side by side");
    return {array.data(), number_of(array), array.stride(0), array.stride(1)};
}

// Where the spans of a step lie, for layers of one shape.
class Plan {
public:
    Plan(std::size_t num_heads, std::size_t num_kv_heads, std::size_t head_dim,
         std::size_t v_head_dim, std::size_t window, const Spans& spans, const Starts& starts,
         std::int64_t block_size, int num_threads)
        : starts_(starts) {
        require(num_kv_heads >= 1 && num_heads >= 1 && num_heads % num_kv_heads == 0,
                "heads do not fit together");
        require(head_dim >= 1 && v_head_dim >= 1, "heads have no numbers");
        require(std::max({num_heads, head_dim, v_head_dim}) <= 1 << 20, "heads are too large");
        require(block_size >= 1 && block_size <= kMost, "a block has no slots or too many");
        require(num_threads >= 1 && num_threads <= 4096, "num_threads is below 1 or above 4096");
        std::vector<AttentionSpan> checked;
        for (std::size_t s = 0; s < spans.shape(0); ++s)
            checked.push_back(span_of(spans.data() + 4 * s, window, block_size));
        schedule_.emplace(AttentionShape{num_heads, num_kv_heads, head_dim, v_head_dim, window},
                          static_cast<std::size_t>(block_size), std::move(checked), num_threads);
    }

    void run(const Heads& q, const Heads& keys, const Heads& values, const OutHeads& out,
             double scale, double softcap, const std::optional<Sinks>& sinks,
             const std::optional<Hidden>& hidden, const std::string& isa) const {
        const Kernels& kernels = kernels_of(isa);
        const AttentionPlan& plan = schedule_->plan();
        const AttentionShape& shape = plan.shape;
        AttentionInput in{};
        in.q = heads_of<const void>(q, shape.num_heads, shape.head_dim, "q");
        in.keys = heads_of<const void>(keys, shape.num_kv_heads, shape.head_dim, "keys");
        in.values = heads_of<const void>(values, shape.num_kv_heads, shape.v_head_dim, "values");
        in.out = heads_of<void>(out, shape.num_heads, shape.v_head_dim, "out");
        require(in.keys.number == in.values.number, "keys and values differ in their type");
        require(end_query_ <= q.shape(0) && end_query_ <= out.shape(0),
                "a span has queries that q or out does not have");
        require(end_slot_ <= keys.shape(0) && end_slot_ <= values.shape(0) &&
                    (!hidden || end_slot_ <= hidden->shape(0)),
                "a slot lies outside the cache");
        require(!sinks || sinks->shape(0) == shape.num_heads, "there is not one sink a head");
        in.scale = static_cast<float>(scale);
        in.softcap = static_cast<float>(softcap);
        in.sinks = sinks ? sinks->data() : nullptr;
        in.hidden = hidden ? reinterpret_cast<const std::uint8_t*>(hidden->data()) : nullptr;
        Barrier barrier{};
        nb::gil_scoped_release unlocked;
#pragma omp parallel num_threads(schedule_->num_threads())
        {
            int thread = 0, num_threads = 1;
#ifdef _OPENMP
            thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
#endif
            kernels.attend_rows(plan, in, thread, num_threads, barrier);
        }
    }

private:
    // Of (first query, number of queries, first position, first entry of block_starts).
    AttentionSpan span_of(const std::int64_t* numbers, std::size_t window,
                          std::int64_t block_size) {
        for (int i = 0; i < 4; ++i)
            require(numbers[i] >= 0 && numbers[i] <= kMost, "a span has a number out of range");
        const std::int64_t end = numbers[2] + numbers[1];
        require(numbers[1] >= 1, "a span has no query");
        require(numbers[3] + (end - 1) / block_size <
                    static_cast<std::int64_t>(starts_.shape(0)),
                "a span has keys without a block");
        const std::int64_t* starts = starts_.data() + numbers[3];
        const auto most = static_cast<std::int64_t>(std::min<std::size_t>(window, kMost));
        const std::int64_t first = most ? std::max<std::int64_t>(0, numbers[2] + 1 - most) : 0;
        for (std::int64_t b = first / block_size; b <= (end - 1) / block_size; ++b) {
            require(starts[b] >= 0 && starts[b] <= kMost, "a slot lies outside the cache");
            const std::int64_t used = std::min(block_size, end - b * block_size);
            end_slot_ = std::max(end_slot_, static_cast<std::size_t>(starts[b] + used));
        }
        end_query_ = std::max(end_query_, static_cast<std::size_t>(numbers[0] + numbers[1]));
        return {static_cast<std::size_t>(numbers[0]), static_cast<std::size_t>(numbers[1]),
                static_cast<std::size_t>(numbers[2]), starts};
    }

    Starts starts_;
    std::size_t end_slot_ = 0, end_query_ = 0;
    std::optional<AttentionSchedule> schedule_;
};

}  // namespace

void bind_attention(nb::module_& m) {
    nb::class_<Plan>(m, "AttentionPlan")
        .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                      const Spans&, const Starts&, std::int64_t, int>(),
             "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "v_head_dim"_a, "window"_a,
             "spans"_a.noconvert(), "block_starts"_a.noconvert(), "block_size"_a,
             "num_threads"_a)
        .def("run", &Plan::run, "q"_a.noconvert(), "keys"_a.noconvert(), "values"_a.noconvert(),
             "out"_a.noconvert(), "scale"_a, "softcap"_a, "sinks"_a.noconvert().none(),
             "hidden"_a.noconvert().none(), "isa"_a);
}

}  // namespace bobot
