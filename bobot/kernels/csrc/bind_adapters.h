// The linear layers of a decoder that adapters can change, and one adapter's changes of them:
// shapes are checked here, once for each adapter.
#pragma once

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "decoder.h"
#include "weight.h"

namespace bobot {
namespace {

// A layer of the model and the name of a part of it, with A (rank, inputs) and B (rank, outputs).
using Change = std::tuple<std::size_t, std::string, Matrix<const float>, Matrix<const float>>;

class Places {
public:
    // Makes room for changes of a linear layer with such a matrix.
    void add(DecoderLinear& linear, std::size_t layer, const char* part, std::size_t slot,
             std::size_t num_outputs, std::size_t num_inputs) {
        linear.slot = slot;
        linear.place = places_.size() + 1;
        places_[{layer, part}] = {linear.place, num_outputs, num_inputs};
    }
    // One for each place, and for place 0, which has none. Raises if a change fits no layer.
    std::vector<LowRank> changes(const std::vector<Change>& given) const {
        std::vector<LowRank> changes(places_.size() + 1, LowRank{0, 0, nullptr, nullptr});
        for (const auto& [layer, part, a, b] : given) {
            const auto found = places_.find({layer, part});
            const std::string name = part + " of layer " + std::to_string(layer);
            require(found != places_.end(), "no adapter can change " + name);
            const Place& place = found->second;
            require(a.shape(0) >= 1 && a.shape(0) == b.shape(0) &&
                        a.shape(1) == place.num_inputs && b.shape(1) == place.num_outputs,
                    "an adapter's matrices do not fit " + name);
            require(changes[place.number].rank == 0, "an adapter changes twice " + name);
            changes[place.number] = {a.shape(0), b.shape(1), a.data(), b.data()};
        }
        return changes;
    }

private:
    struct Place {
        std::size_t number, num_outputs, num_inputs;
    };
    std::map<std::pair<std::size_t, std::string>, Place> places_;
};

// Keeps its arrays alive, and from Python also the decoder that it was made for.
class DecoderAdapter {
public:
    DecoderAdapter(const void* decoder, const Places& places, std::vector<Change> given)
        : decoder_(decoder), given_(std::move(given)), changes_(places.changes(given_)) {
        for (const LowRank& change : changes_)
            if (change.rank > max_rank_) max_rank_ = change.rank;
    }
    bool is_of(const void* decoder) const { return decoder == decoder_; }
    const LowRank* changes() const { return changes_.data(); }
    std::size_t max_rank() const { return max_rank_; }

private:
    const void* decoder_;
    std::vector<Change> given_;
    std::vector<LowRank> changes_;
    std::size_t max_rank_ = 0;
};

// The rows of a step that have adapters; chunks that follow each other with the same one are one
// run, and all runs of an adapter stand together: its matrices are still in the cache.
class AdaptedRuns {
public:
    void add(const DecoderAdapter* adapter, std::size_t first, std::size_t end) {
        if (!adapter || first == end) return;
        const LowRank* changes = adapter->changes();
        const auto is_same = [&](const AdaptedRows& run) { return run.changes == changes; };
        const auto last = std::find_if(runs_.rbegin(), runs_.rend(), is_same);
        if (last != runs_.rend() && last->end == first)
            last->end = end;
        else
            runs_.insert(last == runs_.rend() ? runs_.end() : last.base(), {first, end, changes});
        if (adapter->max_rank() > max_rank_) max_rank_ = adapter->max_rank();
    }
    std::size_t size() const { return runs_.size(); }
    const AdaptedRows* data() const { return runs_.data(); }
    std::size_t max_rank() const { return max_rank_; }

private:
    std::vector<AdaptedRows> runs_;
    std::size_t max_rank_ = 0;
};

}  // namespace
}  // namespace bobot
