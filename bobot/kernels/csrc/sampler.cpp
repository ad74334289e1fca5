#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

namespace bobot {
namespace {

using Ids = std::vector<std::uint32_t>;

struct Row {
    const float *logits, *weights;  // weights: exp(z), z = (logit - largest) / temperature
    std::size_t count;
    float largest, temperature;

    float z(std::size_t id) const { return (logits[id] - largest) / temperature; }
};

// Ids that pass the test, of all.
template <class Test>
Ids ids_where(const Row& row, Test test) {
    Ids kept;
    for (std::size_t id = 0; id < row.count; ++id)
        if (test(id)) kept.push_back(static_cast<std::uint32_t>(id));
    return kept;
}

// The k largest, and those that are equal to the k-th once divided by the temperature. The smallest
// of the maxima of k runs is a lower bound of the k-th, so that few need a closer look.
Ids keep_top_k(const Row& row, std::size_t k) {
    float bound = std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < k; ++i) {
        const std::size_t first = row.count * i / k, end = row.count * (i + 1) / k;
        bound = std::min(bound, *std::max_element(row.logits + first, row.logits + end));
    }
    std::vector<float> high;
    for (std::size_t id = 0; id < row.count; ++id)
        if (row.logits[id] >= bound) high.push_back(row.logits[id]);
    std::nth_element(high.begin(), high.begin() + (k - 1), high.end(), std::greater<float>());
    const float kth = (high[k - 1] - row.largest) / row.temperature;
    return ids_where(row, [&](std::size_t id) { return row.z(id) >= kth; });
}

// The smallest set of most likely ids that holds at least `top_p` of `total`; lower ids first on
// ties. Halves the part in which the set ends until it is short enough to sort.
void keep_top_p(const Row& row, double top_p, double total, Ids& ids) {
    const auto is_before = [&](std::uint32_t a, std::uint32_t b) {
        return row.weights[a] > row.weights[b] || (row.weights[a] == row.weights[b] && a < b);
    };
    double before = 0;
    const double enough = top_p * total;
    auto first = ids.begin(), end = ids.end();
    while (end - first > 64) {
        const auto middle = first + (end - first) / 2;
        std::nth_element(first, middle, end, is_before);
        double mass = 0;
        std::for_each(first, middle, [&](std::uint32_t id) { mass += row.weights[id]; });
        if (before + mass >= enough) {
            end = middle;
        } else {
            before += mass;
            first = middle;
        }
    }
    std::sort(first, end, is_before);
    for (; first != end && (before < enough || first == ids.begin()); ++first)
        before += row.weights[*first];
    ids.erase(first, ids.end());
}

// splitmix64 (doi:10.1145/2660193.2660195), of which 52 bits are kept.
std::uint64_t noise_of(std::uint64_t id, std::uint64_t key) {
    std::uint64_t bits = key + (id + 1) * 0x9E3779B97F4A7C15u;
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return (bits ^ bits >> 31) >> 12;
}

// argmax over ids of z + g with Gumbel noise g = -log(-log u). Since g <= -log(1 - u), an id can
// only win where 1 - u is below exp(z - best): nearly all are ruled out without a logarithm.
class Draw {
public:
    Draw(const Row& row, std::uint64_t key) : row_(row), key_(key) {}

    void look_at(std::size_t id) {
        const std::uint64_t noise = noise_of(id, key_);
        const double rest = static_cast<double>((std::uint64_t{1} << 52) - noise) - 1.0;
        if (rest > row_.weights[id] * reach_) return;
        const double u = (static_cast<double>(noise) + 0.5) * 0x1p-52;
        const double score = static_cast<double>(row_.z(id)) - std::log(-std::log(u));
        if (score > best_) {
            best_ = score;
            winner_ = static_cast<std::int64_t>(id);
            reach_ = 0x1p52 * std::exp(-best_) * 1.0001;  // weights are rounded
        }
    }
    std::int64_t winner() const { return winner_; }

private:
    const Row& row_;
    const std::uint64_t key_;
    double best_ = -std::numeric_limits<double>::infinity();
    double reach_ = std::numeric_limits<double>::infinity();
    std::int64_t winner_ = kNotFinite;
};

}  // namespace

std::int64_t sample(const Kernels& kernels, const float* logits, std::size_t count,
                    const SamplingRules& rules) {
    const LogitsScan scan = kernels.scan_logits(logits, count);
    if (!scan.is_valid || !(scan.largest > -std::numeric_limits<float>::infinity()))
        return kNotFinite;
    const std::unique_ptr<float[]> weights(new float[count]);
    double total = kernels.weigh_logits(logits, count, scan.largest, rules.temperature,
                                        weights.get());
    const Row row{logits, weights.get(), count, scan.largest, rules.temperature};
    Draw draw(row, rules.key);
    const bool has_top_k = rules.top_k > 0 && rules.top_k < count;
    if (!has_top_k && rules.top_p >= 1 && rules.min_p <= 0) {
        for (std::size_t id = 0; id < count; ++id) draw.look_at(id);
        return draw.winner();
    }
    Ids ids;
    if (has_top_k) {
        ids = keep_top_k(row, rules.top_k);
        total = 0;
        for (const std::uint32_t id : ids) total += weights[id];
    } else {
        // What is far below an equal share of what top_p leaves out is outside in any case.
        const double low = std::max((1 - rules.top_p) / static_cast<double>(2 * count) * total,
                                    rules.min_p * 0.5);
        ids = ids_where(row, [&](std::size_t id) { return weights[id] >= low; });
    }
    if (rules.top_p < 1) keep_top_p(row, rules.top_p, total, ids);
    for (const std::uint32_t id : ids)
        if (weights[id] >= rules.min_p) draw.look_at(id);
    return draw.winner();
}

std::int64_t best(const Kernels& kernels, const float* logits, std::size_t count) {
    const LogitsScan scan = kernels.scan_logits(logits, count);
    if (!scan.is_finite) return kNotFinite;
    return std::find(logits, logits + count, scan.largest) - logits;
}

}  // namespace bobot
