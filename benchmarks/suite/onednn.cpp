// A vanilla RNN layer of oneDNN, for `onednn.py`: forward in training, and backward.
//
// Arrays are the caller's, row-major: x (T, B, I), W_x (I, H), W_h (H, H), b (H,), and gradients
// alike.  oneDNN chooses how it wants the weights, and how it leaves their gradients; putting these
// in order is part of a step, since training changes the weights in each.

#include <cstring>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Arguments = std::unordered_map<int, memory>;
using Dims = memory::dims;
using Tag = memory::format_tag;

namespace {

memory::desc description(const Dims &dims, Tag tag) {
    return memory::desc(dims, memory::data_type::f32, tag);
}

struct Move {  // from one memory to another, in another order
    Move(const memory &from, const memory &to) : from(from), to(to), work(from, to) {}
    memory from, to;
    reorder work;
};

}  // namespace

struct Layer {
    Layer(long T, long B, long I, long H, float *x, float *W_x, float *W_h, float *b, float *dh,
          float *dW_x, float *dW_h, float *db, float *dx)
        : cpu(engine::kind::cpu, 0), order(cpu), bias_size(H * sizeof(float)), db(db) {
        const Dims inputs{T, B, I}, states{T, B, H}, of_x{1, 1, I, 1, H}, of_h{1, 1, H, 1, H};
        const auto as_x = description(inputs, Tag::tnc), as_h = description(states, Tag::tnc);
        const auto any_x = description(of_x, Tag::any), any_h = description(of_h, Tag::any);
        const auto as_b = description({1, 1, 1, H}, Tag::ldgo);
        const auto as_h0 = description({1, 1, B, H}, Tag::ldnc);
        const memory::desc none;  // of the last state, which is among the states
        const auto tanh = algorithm::eltwise_tanh;
        const auto direction = rnn_direction::unidirectional_left2right;

#if DNNL_VERSION_MAJOR >= 3
        vanilla_rnn_forward::primitive_desc ahead(
            cpu, prop_kind::forward_training, tanh, direction, as_x, as_h0, any_x, any_h, as_b,
            as_h, none);
        vanilla_rnn_backward::primitive_desc back(
            cpu, prop_kind::backward, tanh, direction, as_x, as_h0, any_x, any_h, as_b, as_h, none,
            as_x, as_h0, any_x, any_h, as_b, as_h, none, ahead);
#else
        vanilla_rnn_forward::primitive_desc ahead(
            vanilla_rnn_forward::desc(prop_kind::forward_training, tanh, direction, as_x, as_h0,
                                      any_x, any_h, as_b, as_h, none),
            cpu);
        vanilla_rnn_backward::primitive_desc back(
            vanilla_rnn_backward::desc(prop_kind::backward, tanh, direction, as_x, as_h0, any_x,
                                       any_h, as_b, as_h, none, as_x, as_h0, any_x, any_h, as_b,
                                       as_h, none),
            cpu, ahead);
#endif
        forward = vanilla_rnn_forward(ahead);
        backward = vanilla_rnn_backward(back);

        const memory h(as_h, cpu), h0(as_h0, cpu), kept(ahead.workspace_desc(), cpu);
        std::memset(h0.get_data_handle(), 0, as_h0.get_size());
        const memory given_x(description(of_x, Tag::ldigo), cpu, W_x);
        const memory given_h(description(of_h, Tag::ldigo), cpu, W_h);
        const memory wanted_x(description(of_x, Tag::ldigo), cpu, dW_x);
        const memory wanted_h(description(of_h, Tag::ldigo), cpu, dW_h);
        const memory ahead_x(ahead.weights_layer_desc(), cpu);
        const memory ahead_h(ahead.weights_iter_desc(), cpu);
        const memory back_x(back.weights_layer_desc(), cpu), back_h(back.weights_iter_desc(), cpu);
        sums = {memory(back.diff_weights_layer_desc(), cpu),
                memory(back.diff_weights_iter_desc(), cpu)};
        before = {{given_x, ahead_x}, {given_h, ahead_h}, {given_x, back_x}, {given_h, back_h}};
        after = {{sums[0], wanted_x}, {sums[1], wanted_h}};

        Arguments common{{DNNL_ARG_SRC_LAYER, memory(as_x, cpu, x)},
                         {DNNL_ARG_SRC_ITER, h0},
                         {DNNL_ARG_BIAS, memory(as_b, cpu, b)},
                         {DNNL_ARG_DST_LAYER, h},
                         {DNNL_ARG_WORKSPACE, kept}};
        for_forward = for_backward = common;
        for_forward.insert({{DNNL_ARG_WEIGHTS_LAYER, ahead_x}, {DNNL_ARG_WEIGHTS_ITER, ahead_h}});
        for_backward.insert({{DNNL_ARG_WEIGHTS_LAYER, back_x},
                             {DNNL_ARG_WEIGHTS_ITER, back_h},
                             {DNNL_ARG_DIFF_DST_LAYER, memory(as_h, cpu, dh)},
                             {DNNL_ARG_DIFF_SRC_LAYER, memory(as_x, cpu, dx)},
                             {DNNL_ARG_DIFF_SRC_ITER, memory(as_h0, cpu)},
                             {DNNL_ARG_DIFF_WEIGHTS_LAYER, sums[0]},
                             {DNNL_ARG_DIFF_WEIGHTS_ITER, sums[1]},
                             {DNNL_ARG_DIFF_BIAS, memory(as_b, cpu, db)}});
    }

    void step() {
        for (auto &move : before) move.work.execute(order, move.from, move.to);
        forward.execute(order, for_forward);
        order.wait();
        // The backward adds to what it finds in the gradients of weights.
        for (auto &sum : sums) std::memset(sum.get_data_handle(), 0, sum.get_desc().get_size());
        std::memset(db, 0, bias_size);
        backward.execute(order, for_backward);
        for (auto &move : after) move.work.execute(order, move.from, move.to);
        order.wait();
    }

    engine cpu;
    stream order;
    size_t bias_size;
    float *db;
    vanilla_rnn_forward forward;
    vanilla_rnn_backward backward;
    std::vector<memory> sums;
    std::vector<Move> before, after;
    Arguments for_forward, for_backward;
};

extern "C" {

const char *version() {
    static const dnnl_version_t *found = dnnl_version();
    static const std::string text = std::to_string(found->major) + "." +
                                    std::to_string(found->minor) + "." +
                                    std::to_string(found->patch);
    return text.c_str();
}

// NULL where oneDNN fails.
Layer *create(long T, long B, long I, long H, float *x, float *W_x, float *W_h, float *b,
              float *dh, float *dW_x, float *dW_h, float *db, float *dx) {
    try {
        return new Layer(T, B, I, H, x, W_x, W_h, b, dh, dW_x, dW_h, db, dx);
    } catch (const error &) {
        return nullptr;
    }
}

int step(Layer *layer) {
    try {
        layer->step();
        return 0;
    } catch (const error &) {
        return 1;
    }
}

}  // extern "C"
