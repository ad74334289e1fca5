// The Python face of the decoder: checks shapes, ids and blocks, and keeps the arrays alive.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <new>
#include <tuple>
#include <vector>

#include "attention_plan.h"
#include "bind_adapters.h"
#include "bind_attention.h"
#include "decoder.h"
#include "weight.h"

using namespace nanobind::literals;

namespace bobot {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Cache = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Hidden = nb::ndarray<bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = std::vector<std::int64_t>;
using Adapters = std::vector<const DecoderAdapter*>;
// The first position of some tokens of one sequence, their ids, and the sequence's blocks.
using Chunk = std::tuple<std::int64_t, Numbers, Numbers>;

// The layers of a model, its embedding and head, and its cache.
class Decoder {
public:
    Decoder(std::size_t num_heads, std::size_t num_kv_heads, std::size_t head_dim,
            std::size_t block_size, double eps, const Floats& frequencies, double rope_factor,
            const nb::tuple& embedding, double embedding_factor, const nb::tuple& lm_head,
            const Floats& norm, const std::string& activations,
            const std::optional<Hidden>& hidden, std::int64_t hidden_id, const std::string& isa)
        : kernels_(kernels_of(isa)) {
        plan_.hidden_size = norm.size();
        plan_.num_heads = num_heads;
        plan_.num_kv_heads = num_kv_heads;
        plan_.head_dim = head_dim;
        plan_.block_size = block_size;
        plan_.eps = static_cast<float>(eps);
        plan_.rope_factor = static_cast<float>(rope_factor);
        plan_.embedding_factor = static_cast<float>(embedding_factor);
        plan_.norm = floats(norm, norm.size());
        plan_.activations = activation_type(activations);
        require(num_kv_heads >= 1 && num_heads >= 1 && num_heads % num_kv_heads == 0 &&
                    head_dim >= 1 && block_size >= 1,
                "heads or blocks do not fit together");
        v_head_dim_ = head_dim;
        plan_.rotary_dim = 2 * frequencies.size();
        require(plan_.rotary_dim <= head_dim, "there are more angles than a head has pairs");
        plan_.frequencies = floats(frequencies, frequencies.size());
        plan_.embedding = matrix(embedding);
        plan_.lm_head = matrix(lm_head);
        plan_.vocab_size = num_rows(plan_.lm_head);
        require(plan_.vocab_size >= 1, "the vocabulary is empty");
        require_shape(plan_.embedding, plan_.vocab_size, plan_.hidden_size);
        require_shape(plan_.lm_head, plan_.vocab_size, plan_.hidden_size);
        plan_.hidden_id = hidden_id;
        if (!hidden) return;
        plan_.hidden = reinterpret_cast<std::uint8_t*>(hidden->data());
        hidden_ = *hidden;
    }

    // Begins a layer. Each linear is (matrix, bias or None); what a matrix is says matrix().
    void add_attention(const Floats& norm, const std::optional<Floats>& norm_after,
                       const nb::tuple& q, const nb::tuple& k, const nb::tuple& v,
                       const nb::tuple& o, const std::optional<Floats>& sinks, std::size_t window,
                       double scale, double softcap, const Cache& keys, const Cache& values) {
        const std::size_t d = plan_.hidden_size, q_size = plan_.num_heads * plan_.head_dim,
                          kv_size = plan_.num_kv_heads * plan_.head_dim;
        require_whole();
        require(plan_.rotary_dim == plan_.head_dim && v_head_dim_ == plan_.head_dim,
                "there is not one angle for each pair of a head");
        DecoderLayer layer{};
        layer.attention_norm = floats(norm, d);
        if (norm_after) layer.attention_norm_after = floats(*norm_after, d);
        layer.q = linear(q, q_size, d);
        layer.k = linear(k, kv_size, d);
        layer.v = linear(v, kv_size, d);
        layer.o = linear(o, d, q_size);
        if (sinks) layer.sinks = floats(*sinks, plan_.num_heads);
        layer.attention = attention_with(window);
        layer.scale = static_cast<float>(scale);
        layer.softcap = static_cast<float>(softcap);
        set_cache(layer, keys, values);
        place(layer.q, layers_.size(), "q", 0);
        place(layer.k, layers_.size(), "k", 1);
        place(layer.v, layers_.size(), "v", 2);
        place(layer.o, layers_.size(), "o", 0);
        push(layer);
    }

    // Begins a layer whose keys and values are a latent. Without q_a and its norm queries come
    // from the hidden state; key and value are stacks of one matrix for each head.
    void add_latent_attention(const Floats& norm, const std::optional<nb::tuple>& q_a,
                              const std::optional<Floats>& q_norm, const nb::tuple& q,
                              const nb::tuple& kv_a, const Floats& kv_norm, double latent_eps,
                              const nb::tuple& key, const nb::tuple& value, const nb::tuple& o,
                              double scale, const Cache& keys) {
        const std::size_t d = plan_.hidden_size, n = plan_.num_heads, h = plan_.head_dim;
        const std::size_t c = kv_norm.size();
        require_whole();
        require(plan_.num_kv_heads == 1 && c + plan_.rotary_dim == h &&
                    (layers_.empty() || v_head_dim_ == c) && q_a.has_value() == q_norm.has_value(),
                "the latents do not fit the heads");
        v_head_dim_ = c;
        DecoderLayer layer{};
        layer.is_latent = true;
        layer.attention_norm = floats(norm, d);
        DecoderLatent& latent = layer.latent;
        if (q_a) {
            latent.q_rank = q_norm->size();
            latent.q_norm = floats(*q_norm, latent.q_rank);
            latent.q_a = linear(*q_a, latent.q_rank, d);
        }
        latent.kv_a = linear(kv_a, h, d);
        latent.kv_norm = floats(kv_norm, c);
        latent.eps = static_cast<float>(latent_eps);
        latent.key = stack(key, n).weight;
        latent.value = stack(value, n).weight;
        latent.plain_size = num_columns(latent.key);
        latent.value_size = num_rows(latent.value);
        require_shape(latent.key, c, latent.plain_size);
        require_shape(latent.value, latent.value_size, c);
        latent.q = linear(q, n * (latent.plain_size + plan_.rotary_dim), q_a ? latent.q_rank : d);
        layer.o = linear(o, d, n * latent.value_size);
        layer.attention = attention_with(0);
        layer.scale = static_cast<float>(scale);
        set_cache(layer, keys, keys);
        if (q_a) place(latent.q_a, layers_.size(), "q_a", 0);
        place(latent.kv_a, layers_.size(), "kv_a", 1);
        place(latent.q, layers_.size(), "q", 0);
        place(layer.o, layers_.size(), "o", 0);
        push(layer);
    }

    // The network behind a layer's attention, or its experts, which need a router.
    void add_mlp(const Floats& norm, const std::optional<Floats>& norm_after, const nb::tuple& gate,
                 const std::optional<nb::tuple>& up, const nb::tuple& down, std::size_t num_experts,
                 double alpha, double cubic, double limit, double up_offset) {
        require(!layers_.empty() && !has_mlp(layers_.back()), "a network follows an attention");
        DecoderLayer layer = layers_.back();
        layer.mlp_norm = floats(norm, plan_.hidden_size);
        if (norm_after) layer.mlp_norm_after = floats(*norm_after, plan_.hidden_size);
        layer.mlp = network(gate, up, down, num_experts);
        layer.mlp.alpha = static_cast<float>(alpha);
        layer.mlp.cubic = static_cast<float>(cubic);
        layer.mlp.limit = static_cast<float>(limit);
        layer.mlp.up_offset = static_cast<float>(up_offset);
        if (num_experts == 1 && up) place(layer.mlp, {"gate", "up", "down"});
        layers_.back() = layer;
    }

    // A network of the same kind as the last layer's experts, for every row beside them.
    void add_shared(const nb::tuple& gate, const nb::tuple& up, const nb::tuple& down) {
        require(!layers_.empty() && has_mlp(layers_.back()), "a shared network follows experts");
        DecoderLayer& layer = layers_.back();
        DecoderMlp shared = network(gate, up, down, 1);
        shared.alpha = layer.mlp.alpha;
        shared.cubic = layer.mlp.cubic;
        shared.limit = layer.mlp.limit;
        shared.up_offset = layer.mlp.up_offset;
        place(shared, {"shared gate", "shared up", "shared down"});
        layer.shared = shared;
    }

    // Who picks among the experts of the last layer.
    void add_router(const nb::tuple& router, std::size_t num_active, const std::string& scores,
                    const std::optional<Floats>& choice_bias, std::size_t num_groups,
                    std::size_t num_best_groups, double factor) {
        require(!layers_.empty() && has_mlp(layers_.back()), "a router follows experts");
        DecoderMlp& mlp = layers_.back().mlp;
        const std::size_t e = mlp.num_experts;
        require(e > 1 && num_groups >= 1 && e % num_groups == 0 && num_best_groups >= 1 &&
                    num_best_groups <= num_groups && num_active >= 1 &&
                    num_active <= e / num_groups * num_best_groups,
                "the experts and the router do not fit together");
        DecoderRouter made{};
        made.linear = linear(router, e, plan_.hidden_size);
        made.scores = router_scores(scores);
        if (choice_bias) made.choice_bias = floats(*choice_bias, e);
        made.num_groups = num_groups;
        made.num_best_groups = num_best_groups;
        made.factor = static_cast<float>(factor);
        place(made.linear, layers_.size() - 1, "router", 0);
        mlp.router = made;
        mlp.num_active = num_active;
    }

    // What a step of this decoder can apply to rows, its shapes checked.
    DecoderAdapter adapter(std::vector<Change> changes) const {
        return {this, places_, std::move(changes)};
    }

    void step(const std::vector<Chunk>& chunks, const Numbers& logit_rows,
              const Matrix<float>& logits, int num_threads, const Adapters& adapters) const {
        Numbers ids, positions;
        std::vector<const std::int64_t*> tables;
        std::vector<Numbers> starts;
        std::vector<AttentionSpan> spans;
        AdaptedRuns adapted;
        require_adapters(adapters, chunks.size());
        for (std::size_t c = 0; c < chunks.size(); ++c) {
            const auto& [first, chunk_ids, table] = chunks[c];
            require_blocks(first, chunk_ids.size(), table);
            starts.push_back(starts_of(table));
            if (!chunk_ids.empty())
                spans.push_back({ids.size(), chunk_ids.size(), static_cast<std::size_t>(first),
                                 starts.back().data()});
            for (std::size_t i = 0; i < chunk_ids.size(); ++i) {
                ids.push_back(chunk_ids[i]);
                positions.push_back(first + static_cast<std::int64_t>(i));
                tables.push_back(table.data());
            }
            if (!adapters.empty())
                adapted.add(adapters[c], ids.size() - chunk_ids.size(), ids.size());
        }
        require_below(ids, plan_.vocab_size, "an id lies outside the vocabulary");
        require_below(logit_rows, ids.size(), "a row of logits lies outside the step");
        require(logit_rows.size() <= ids.size() && logits.shape(0) == logit_rows.size() &&
                    logits.shape(1) == plan_.vocab_size,
                "logits are not (chosen rows, vocabulary)");
        require(!layers_.empty(), "the decoder has no layers");
        require_whole();
        require(num_threads >= 1 && num_threads <= 4096, "num_threads is below 1 or above 4096");
        if (ids.empty()) return;
        std::deque<AttentionSchedule> schedules;
        std::vector<const AttentionPlan*> attentions;
        for (const std::size_t window : windows_) {
            const AttentionShape shape{plan_.num_heads, plan_.num_kv_heads, plan_.head_dim,
                                       v_head_dim_, window};
            schedules.emplace_back(shape, plan_.block_size, spans, num_threads);
            attentions.push_back(&schedules.back().plan());
        }
        const DecoderStep step{ids.size(),        ids.data(),        positions.data(),
                               tables.data(),     attentions.data(), logit_rows.size(),
                               logit_rows.data(), logits.data(),    num_threads,
                               adapted.size(),    adapted.data(),   adapted.max_rank()};
        nb::gil_scoped_release unlocked;
        if (!kernels_.decode(plan_, step)) throw std::bad_alloc();
    }

private:
    static bool has_mlp(const DecoderLayer& layer) { return layer.mlp.num_experts > 0; }
    void require_whole() const {
        if (layers_.empty()) return;
        const DecoderLayer& last = layers_.back();
        require(has_mlp(last) && (last.mlp.num_experts == 1 || last.mlp.router.num_groups > 0),
                "the last layer lacks its network or its router");
    }
    void push(const DecoderLayer& layer) {
        layers_.push_back(layer);
        plan_.layers = layers_.data();
        plan_.num_layers = layers_.size();
    }
    // Without its rules.
    DecoderMlp network(const nb::tuple& gate, const std::optional<nb::tuple>& up,
                       const nb::tuple& down, std::size_t count) {
        const std::size_t d = plan_.hidden_size;
        require(count >= 1, "a layer has at least one network");
        DecoderMlp mlp{};
        mlp.num_experts = count;
        mlp.num_active = 1;
        mlp.is_interleaved = !up.has_value();
        mlp.down = stack(down, count);
        mlp.intermediate_size = num_columns(mlp.down.weight);
        const std::size_t f = mlp.intermediate_size;
        mlp.gate = stack(gate, count, up ? f : 2 * f, d);
        if (up) mlp.up = stack(*up, count, f, d);
        require_shape(mlp.down.weight, d, f);
        return mlp;
    }
    static RouterScores router_scores(const std::string& name) {
        if (name == "softmax of chosen") return RouterScores::softmax_of_chosen;
        if (name == "softmax of all") return RouterScores::softmax_of_all;
        if (name == "sigmoid") return RouterScores::sigmoid;
        require(name == "normalized sigmoid", "no router has scores called " + name);
        return RouterScores::normalized_sigmoid;
    }
    // The place of that window among the different ones.
    std::size_t attention_with(std::size_t window) {
        const auto found = std::find(windows_.begin(), windows_.end(), window);
        if (found == windows_.end()) windows_.push_back(window);
        return static_cast<std::size_t>(std::find(windows_.begin(), windows_.end(), window) -
                                        windows_.begin());
    }
    // The first slot of each block.
    Numbers starts_of(const Numbers& table) const {
        Numbers starts;
        for (const std::int64_t block : table)
            starts.push_back(block * static_cast<std::int64_t>(plan_.block_size));
        return starts;
    }
    void require_blocks(std::int64_t first, std::size_t count, const Numbers& table) const {
        require(first >= 0 && first <= INT32_MAX && count <= INT32_MAX,
                "a position is negative or too large");
        const std::size_t end = static_cast<std::size_t>(first) + count;
        require((end + plan_.block_size - 1) / plan_.block_size <= table.size(),
                "a sequence has fewer blocks than its tokens need");
        require_below(table, num_blocks_, "a block lies outside the cache");
    }
    void require_adapters(const Adapters& adapters, std::size_t num_chunks) const {
        require(adapters.empty() || adapters.size() == num_chunks,
                "there is not one adapter, or None, for each chunk");
        for (const DecoderAdapter* adapter : adapters)
            require(!adapter || adapter->is_of(this), "an adapter belongs to another decoder");
    }
    static void require_below(const Numbers& numbers, std::size_t limit, const char* what) {
        for (const std::int64_t number : numbers)
            require(number >= 0 && static_cast<std::uint64_t>(number) < limit, what);
    }

    const float* floats(const Floats& array, std::size_t size) {
        require(array.size() == size, "a vector has another length than the matrices beside it");
        arrays_.push_back(array);
        return array.data();
    }
    // Packed rows have five parts, as `linear` takes them; tiles six: format, scales, rows,
    // columns, group and the bytes of all matrices.
    Weight matrix(const nb::tuple& parts, std::size_t count = 1) {
        require(nb::len(parts) == 5 || nb::len(parts) == 6, "a matrix has five or six parts");
        owners_.append(parts);
        Weight weight{};
        weight.count = count;
        const auto format = nb::cast<std::string>(parts[0]);
        const auto number = [&](std::size_t i) { return nb::cast<std::size_t>(parts[i]); };
        if (nb::len(parts) == 5) {
            weight.rows = weight_of(format_of(kernels_, format),
                                    nb::cast<Matrix<const std::uint8_t>>(parts[1]),
                                    nb::cast<std::optional<AnyMatrix>>(parts[2]), number(3),
                                    number(4));
            require(weight.rows.num_rows % (count * weight.rows.scales.rows_per_scale) == 0 ||
                        count == 1,
                    "matrices of a stack share rows or scales");
            return weight;
        }
        const auto bytes = nb::cast<Bytes>(parts[5]);
        weight.tiles = tiles_of(format, nb::cast<std::string>(parts[1]), number(2), number(3),
                                number(4));
        require(bytes.size() == count * weight.tiles.num_bytes,
                "the tiles have " + std::to_string(bytes.size()) + " bytes, not " +
                    std::to_string(count * weight.tiles.num_bytes));
        weight.tiles.data = bytes.data();
        return weight;
    }
    DecoderLinear linear(const nb::tuple& parts, std::size_t rows, std::size_t columns) {
        return stack(parts, 1, rows, columns);
    }
    DecoderLinear stack(const nb::tuple& parts, std::size_t count, std::size_t rows,
                        std::size_t columns) {
        const DecoderLinear made = stack(parts, count);
        require_shape(made.weight, rows, columns);
        return made;
    }
    DecoderLinear stack(const nb::tuple& parts, std::size_t count) {
        require(nb::len(parts) == 2, "a linear layer is a matrix and a bias");
        DecoderLinear made{matrix(nb::cast<nb::tuple>(parts[0]), count), nullptr};
        if (!parts[1].is_none())
            made.bias = floats(nb::cast<Floats>(parts[1]), count * num_rows(made.weight));
        return made;
    }
    // Adapters can change it from now on.
    void place(DecoderLinear& linear, std::size_t layer, const char* part, std::size_t slot) {
        places_.add(linear, layer, part, slot, num_rows(linear.weight), num_columns(linear.weight));
    }
    // The same of the last layer's network of every row.
    void place(DecoderMlp& mlp, const std::array<const char*, 3>& parts) {
        place(mlp.gate, layers_.size() - 1, parts[0], 0);
        place(mlp.up, layers_.size() - 1, parts[1], 1);
        place(mlp.down, layers_.size() - 1, parts[2], 0);
    }
    // Of each matrix of a stack.
    static std::size_t num_rows(const Weight& weight) {
        return weight.tiles.data ? weight.tiles.num_rows : weight.rows.num_rows / weight.count;
    }
    static std::size_t num_columns(const Weight& weight) {
        return weight.tiles.data ? weight.tiles.num_columns : weight.rows.num_columns;
    }
    static void require_shape(const Weight& weight, std::size_t rows, std::size_t columns) {
        require(num_rows(weight) == rows && num_columns(weight) == columns,
                "the matrices of a model do not fit together");
    }
    void set_cache(DecoderLayer& layer, const Cache& keys, const Cache& values) {
        const std::size_t slot = plan_.num_kv_heads * plan_.head_dim;
        const std::size_t num_blocks = keys.size() / slot / plan_.block_size;
        const Number type = number_of(keys);
        require(keys.size() == values.size() && keys.size() % slot == 0 &&
                    number_of(values) == type &&
                    (layers_.empty() || (num_blocks == num_blocks_ && type == plan_.cache_number)),
                "the cache does not fit the heads or the other layers");
        require(!plan_.hidden || hidden_.size() == num_blocks * plan_.block_size,
                "there is not one mark for each slot of the cache");
        num_blocks_ = num_blocks;
        plan_.cache_number = type;
        layer.keys = keys.data();
        layer.values = values.data();
        caches_.push_back(keys);
        caches_.push_back(values);
    }

    const Kernels& kernels_;
    DecoderPlan plan_{};
    std::vector<DecoderLayer> layers_;
    Places places_;
    std::vector<std::size_t> windows_;
    std::vector<Floats> arrays_;
    std::vector<Cache> caches_;
    Hidden hidden_;
    nb::list owners_;
    std::size_t num_blocks_ = 0, v_head_dim_ = 0;
};

}  // namespace

void bind_decoder(nb::module_& m) {
    nb::class_<DecoderAdapter>(m, "DecoderAdapter");
    nb::class_<Decoder>(m, "Decoder")
        .def(nb::init<std::size_t, std::size_t, std::size_t, std::size_t, double, const Floats&,
                      double, const nb::tuple&, double, const nb::tuple&, const Floats&,
                      const std::string&, const std::optional<Hidden>&, std::int64_t,
                      const std::string&>(),
             "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "block_size"_a, "eps"_a,
             "frequencies"_a.noconvert(), "rope_factor"_a, "embedding"_a, "embedding_factor"_a,
             "lm_head"_a, "norm"_a.noconvert(), "activations"_a, "hidden"_a.noconvert().none(),
             "hidden_id"_a, "isa"_a)
        .def("add_attention", &Decoder::add_attention, nb::kw_only(), "norm"_a.noconvert(),
             "norm_after"_a.noconvert().none(), "q"_a, "k"_a, "v"_a, "o"_a,
             "sinks"_a.noconvert().none(), "window"_a, "scale"_a, "softcap"_a,
             "keys"_a.noconvert(), "values"_a.noconvert())
        .def("add_latent_attention", &Decoder::add_latent_attention, nb::kw_only(),
             "norm"_a.noconvert(), "q_a"_a.none(), "q_norm"_a.noconvert().none(), "q"_a, "kv_a"_a,
             "kv_norm"_a.noconvert(), "latent_eps"_a, "key"_a, "value"_a, "o"_a, "scale"_a,
             "keys"_a.noconvert())
        .def("add_shared", &Decoder::add_shared, nb::kw_only(), "gate"_a, "up"_a, "down"_a)
        .def("add_mlp", &Decoder::add_mlp, nb::kw_only(), "norm"_a.noconvert(),
             "norm_after"_a.noconvert().none(), "gate"_a, "up"_a.none(), "down"_a,
             "num_experts"_a, "alpha"_a, "cubic"_a, "limit"_a, "up_offset"_a)
        .def("add_router", &Decoder::add_router, nb::kw_only(), "router"_a, "num_active"_a,
             "scores"_a, "choice_bias"_a.noconvert().none(), "num_groups"_a, "num_best_groups"_a,
             "factor"_a)
        .def("adapter", &Decoder::adapter, "changes"_a.noconvert(), nb::keep_alive<0, 1>())
        .def("step", &Decoder::step, "chunks"_a, "rows"_a, "logits"_a.noconvert(),
             "num_threads"_a, "adapters"_a = Adapters());
}

}  // namespace bobot
